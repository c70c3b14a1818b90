//! Whether a model fits the memory of this machine. Knows sizes only; the system is asked in one
//! place.

use relay_model::ModelCard;
use serde::Serialize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

mod limits {
    /// Bytes that a program needs beside weights, keys and values.
    pub(super) const BESIDE_BYTES: u64 = 100_000_000;
    /// A model that has room for fewer tokens is of no use.
    pub(super) const CONTEXT_TOKENS_MIN: usize = 256;
}

/// What a model needs here, and what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Fit {
    /// Tokens of context that were asked for.
    pub(crate) context_tokens: usize,
    /// Bytes of keys and values for them.
    pub(crate) kv_bytes: u64,
    /// Bytes of weights, keys and values, and of the program beside them.
    pub(crate) needed_bytes: u64,
    /// Bytes that are free.
    pub(crate) free_bytes: u64,
    /// Tokens of context for which there is room, no more than asked for; 0: the model does not
    /// fit.
    pub(crate) fitting_tokens: usize,
}

impl Fit {
    /// With so many tokens of context, in so many free bytes.
    pub(crate) fn new(card: &ModelCard, context_tokens: usize, free_bytes: u64) -> Self {
        let kv_bytes = card.kv_bytes(context_tokens);
        let without_kv = card.resident_bytes.saturating_add(limits::BESIDE_BYTES);
        let room = free_bytes.saturating_sub(without_kv) / card.kv_bytes_per_token.max(1);
        let room_tokens = usize::try_from(room).unwrap_or(usize::MAX);
        let least_tokens = limits::CONTEXT_TOKENS_MIN.min(context_tokens);
        let fits = free_bytes >= without_kv && room_tokens >= least_tokens;
        Self {
            context_tokens,
            kv_bytes,
            needed_bytes: without_kv.saturating_add(kv_bytes),
            free_bytes,
            fitting_tokens: if fits { room_tokens.min(context_tokens) } else { 0 },
        }
    }
}

/// Bytes that a program may still take: what the system has to give, within the limit of the
/// container it runs in.
pub(crate) fn free_bytes() -> u64 {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory));
    let within =
        system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    system.available_memory().min(within.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_show::tests::card;

    #[test]
    fn what_fits_follows_from_what_is_free() {
        // 1000 MB of weights, 1 MB a token.
        let card = card(1_000_000_000, 1_000_000);
        for (asked, free, fitting) in [
            (1000, 2_100_000_000, 1000),
            (1000, 2_099_999_999, 999),
            (1000, 1_356_000_000, 256),
            (1000, 1_355_999_999, 0),
            (100, 1_200_000_000, 100),
            (1000, 0, 0),
        ] {
            let fit = Fit::new(&card, asked, free);
            assert_eq!(fit.fitting_tokens, fitting, "{asked} tokens in {free}");
            assert_eq!(fit.fitting_tokens == asked, fit.needed_bytes <= free, "{asked} in {free}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(free_bytes() > 0);
    }
}
