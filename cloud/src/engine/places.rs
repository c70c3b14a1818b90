//! Free places: the scheduler says whose turn it is, here it is seen whether the call's bytes of KV
//! fit, in all and in its tenant's share. It must not know what a call does with its place.

use std::sync::Arc;

use super::{Engine, kv_bytes};
use crate::admission::CallPlaces;
use crate::call::{Call, Phase};
use crate::scheduler::{Places, Waiting, next_to_run};
use crate::session::Session;
use crate::store::Tenant;

mod limits {
    /// Calls that are held back in one turn before the rest waits for the next.
    pub(super) const HELD_BACK_MAX: usize = 64;
}

/// Whether a call could be given a place.
enum Start {
    Runs,
    /// What runs holds too much.
    NoBytes,
    /// Its tenant would run over its share of bytes while another waits.
    OverShare,
}

/// What became of the waiting calls in this turn.
#[derive(Default)]
struct PlaceTurn {
    started: Vec<(u64, Tenant)>,
    /// Calls without a place, and the tenant whose share it is that holds them.
    held_back: Vec<(u64, Option<Tenant>)>,
    /// Tenants whose calls all wait for one that is overdue.
    held_tenants: Vec<Tenant>,
}

impl PlaceTurn {
    fn holds(&self, call: &Call) -> bool {
        self.held_back.iter().any(|(number, _)| *number == call.number)
            || self.held_tenants.contains(&call.key.tenant)
    }

    /// How many calls that came later were started; of a tenant, if it is its share that holds.
    fn younger_started(&self, number: u64, of_tenant: Option<&Tenant>) -> usize {
        let younger = self.started.iter().filter(|(started, _)| *started > number);
        younger.filter(|(_, tenant)| of_tenant.is_none_or(|own| own == tenant)).count()
    }
}

impl Engine {
    /// Gives free places away, as far as the bytes of KV reach. A call whose bytes do not fit lets
    /// others pass, so many times; then it comes first, and all wait for it.
    pub(super) fn give_places(&mut self) {
        let mut turn = PlaceTurn::default();
        while turn.held_back.len() < limits::HELD_BACK_MAX
            && let Some(number) = self.next_to_run(&turn)
            && let Some(call) = self.calls.get(&number)
        {
            let (tenant, overdue) = (Arc::clone(&call.key.tenant), call.is_overdue());
            match self.start(number) {
                Start::Runs => turn.started.push((number, tenant)),
                Start::NoBytes if overdue => break,
                Start::NoBytes => turn.held_back.push((number, None)),
                Start::OverShare => {
                    if overdue {
                        turn.held_tenants.push(Arc::clone(&tenant));
                    }
                    turn.held_back.push((number, Some(tenant)));
                }
            }
        }
        for (number, of_tenant) in &turn.held_back {
            if let Some(call) = self.calls.get_mut(number) {
                call.note_passed(turn.younger_started(*number, of_tenant.as_ref()));
            }
        }
    }

    fn start(&mut self, number: u64) -> Start {
        let bytes = self.bytes_wanted(number);
        let waiting_tenants: Vec<&Tenant> = self
            .calls
            .values()
            .filter(|call| !call.is_running())
            .map(|call| &call.key.tenant)
            .collect();
        let Some(call) = self.calls.get(&number) else { return Start::Runs };
        let tenant = &call.key.tenant;
        let others_wait = waiting_tenants.iter().any(|other| *other != tenant);
        let running = self.store.running_bytes(tenant);
        let over_share = running.saturating_add(bytes) > self.limits.store.tenant_kv_bytes;
        if others_wait && running > 0 && over_share {
            return Start::OverShare;
        }
        if !self.store.reserve(&call.key, bytes) {
            return Start::NoBytes;
        }
        if let Some(call) = self.calls.get_mut(&number) {
            call.phase = Phase::Running { served_step: self.steps_made };
        }
        Start::Runs
    }

    /// Bytes that a call will have taken by its end.
    fn bytes_wanted(&self, number: u64) -> usize {
        let Some(call) = self.calls.get(&number) else { return 0 };
        let log_tokens = self.store.get(&call.key).map_or(0, Session::log_tokens);
        let tokens = (log_tokens + call.tokens_left() as usize).min(self.context_tokens);
        kv_bytes(tokens, self.model.shape().kv_bytes_per_token)
    }

    fn next_to_run(&self, turn: &PlaceTurn) -> Option<u64> {
        let (running, waiting): (Vec<&Call>, Vec<&Call>) =
            self.calls.values().partition(|call| call.is_running());
        let running: Vec<&str> = running.iter().map(|call| &*call.key.tenant).collect();
        let CallPlaces { calls_max, tenant_calls_max, .. } = self.limits.places;
        let places = Places { calls_max, tenant_calls_max };
        let of = |which: fn(&Call) -> bool| {
            let waiting = waiting.iter().filter(|call| which(call) && !turn.holds(call));
            let waiting =
                waiting.map(|call| Waiting { call: call.number, tenant: &call.key.tenant });
            next_to_run(&waiting.collect::<Vec<_>>(), &running, places)
        };
        of(Call::is_overdue).or_else(|| of(|_| true))
    }
}
