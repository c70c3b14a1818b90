//! A circuit breaker: an endpoint that keeps failing costs nothing until it is tried again. Reads
//! no clock and knows no network; the time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Consecutive failures that open it.
    pub failures: u32,
    /// How long it then stays open before one probe is let through.
    pub open: Duration,
}

/// The breaker of one endpoint.
#[derive(Clone, Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    /// Consecutive failures; a success starts the count anew.
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    /// Nothing passes before this moment.
    Open(Instant),
    /// One probe is under way, and nothing else passes.
    Probing,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, failures: 0, state: State::Closed }
    }

    /// Whether an attempt may pass now.
    pub fn admits(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open(until) => now >= until,
            State::Probing => false,
        }
    }

    /// Lets an attempt pass, which [`Breaker::admits`] must have allowed. One that passes an open
    /// breaker is the probe: it must end in one of the three calls below.
    pub fn pass(&mut self) {
        if let State::Open(_) = self.state {
            self.state = State::Probing;
        }
    }

    /// The attempt got an answer, be it a refusal.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.state = State::Closed;
    }

    /// The attempt failed.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.limits.failures || self.state == State::Probing {
            self.state = State::Open(now + self.limits.open);
        }
    }

    /// The attempt was given up before it could tell anything: the next may be the probe.
    pub fn abandoned(&mut self, now: Instant) {
        if self.state == State::Probing {
            self.state = State::Open(now);
        }
    }

    /// Consecutive failures so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether it keeps attempts away.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Fail,
        Succeed,
        Abandon,
        WaitMs(u64),
        Pass,
        Admits(bool),
    }
    use Step::{Abandon, Admits, Fail, Pass, Succeed, WaitMs};

    fn check(name: &str, steps: &[Step]) {
        let limits = BreakerLimits { failures: 3, open: Duration::from_secs(1) };
        let mut breaker = Breaker::new(limits);
        let mut now = Instant::now();
        for (index, step) in steps.iter().enumerate() {
            match *step {
                Fail => breaker.failed(now),
                Succeed => breaker.succeeded(),
                Abandon => breaker.abandoned(now),
                WaitMs(ms) => now += Duration::from_millis(ms),
                Pass => breaker.pass(),
                Admits(expected) => {
                    assert_eq!(breaker.admits(now), expected, "{name}, step {index}");
                }
            }
        }
    }

    #[test]
    fn breaker_table() {
        check("closed at first", &[Admits(true), Pass, Admits(true)]);
        check("two failures do not open", &[Fail, Fail, Admits(true)]);
        check("three do", &[Fail, Fail, Fail, Admits(false)]);
        check("only consecutive ones count", &[Fail, Fail, Succeed, Fail, Fail, Admits(true)]);
        check(
            "open until its time",
            &[Fail, Fail, Fail, WaitMs(999), Admits(false), WaitMs(1), Admits(true)],
        );
        check("one probe only", &[Fail, Fail, Fail, WaitMs(1000), Pass, Admits(false)]);
        check(
            "a failed probe opens it again at once",
            &[
                Fail,
                Fail,
                Fail,
                WaitMs(1000),
                Pass,
                Fail,
                WaitMs(999),
                Admits(false),
                WaitMs(1),
                Admits(true),
            ],
        );
        check(
            "a probe that succeeds closes it for good",
            &[Fail, Fail, Fail, WaitMs(1000), Pass, Succeed, Fail, Fail, Admits(true)],
        );
        check(
            "a probe given up lets the next one probe",
            &[Fail, Fail, Fail, WaitMs(1000), Pass, Abandon, Admits(true)],
        );
        check("giving up closes nothing", &[Fail, Fail, Fail, Abandon, Admits(false)]);
    }
}
