//! How the daemon is: one value that the program sets and that probes read. Knows no protocol.

use tokio::sync::watch;

/// How the daemon is, in the order in which a daemon lives: it never goes back to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthState {
    /// Loading; takes no work yet.
    Starting,
    /// Takes work.
    Ready,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Broken beyond its own repair: whoever watches should start it anew.
    Failed,
}

impl HealthState {
    /// Whether it takes work.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Ready)
    }

    /// Whether a restart would not help: all but [`Self::Failed`].
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Failed)
    }

    /// The word for logs and probes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// A handle on the daemon's one [`HealthState`]; clones share it.
#[derive(Clone, Debug)]
pub struct Health(watch::Sender<HealthState>);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Health of a daemon that is starting.
    pub fn new() -> Self {
        Self(watch::Sender::new(HealthState::Starting))
    }

    /// The state now.
    pub fn state(&self) -> HealthState {
        *self.0.borrow()
    }

    /// Moves forward to `state`; returns whether that changed anything. A move back is ignored, so
    /// that a warm-up that ends during a drain cannot call the daemon ready again.
    pub fn advance(&self, state: HealthState) -> bool {
        self.0.send_if_modified(|current| {
            let forward = state > *current;
            if forward {
                *current = state;
            }
            forward
        })
    }

    /// A receiver that sees every change from now on.
    pub fn watch(&self) -> watch::Receiver<HealthState> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::HealthState::{Draining, Failed, Ready, Starting};
    use super::*;

    #[test]
    fn health_never_goes_back() {
        for (first, second, end) in [
            (Ready, Draining, Draining),
            (Draining, Ready, Draining),
            (Failed, Ready, Failed),
            (Starting, Ready, Ready),
            (Ready, Ready, Ready),
        ] {
            let health = Health::new();
            health.advance(first);
            assert_eq!(health.advance(second), end != first, "{first:?} {second:?}");
            assert_eq!(health.state(), end, "{first:?} {second:?}");
        }
    }

    #[tokio::test]
    async fn a_watcher_sees_the_change_through_any_clone() {
        let health = Health::new();
        let mut watcher = health.watch();
        health.clone().advance(Ready);
        watcher.changed().await.unwrap();
        assert_eq!(*watcher.borrow(), Ready);
    }

    #[test]
    fn only_ready_takes_work_and_only_failed_is_dead() {
        let table = [Starting, Ready, Draining, Failed]
            .map(|state| (state.name(), state.is_ready(), state.is_live()));
        assert_eq!(
            table,
            [
                ("starting", false, true),
                ("ready", true, true),
                ("draining", false, true),
                ("failed", false, false),
            ]
        );
    }
}
