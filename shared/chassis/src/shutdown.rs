//! The wish to stop, as a value: made from signals by a program and by hand in a test. Knows
//! nothing of what stopping means; whoever serves waits for it and drains.

use std::io::{self, Write};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Tells when to stop; clones tell the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Begins a [`Shutdown`] made by [`Shutdown::manual`]. Dropping it begins nothing.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// Begins at the first SIGTERM or SIGINT. A second one ends the process at once, with a message
    /// and the exit code that shells give to a signal (128 + its number).
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub fn on_signals() -> io::Result<Self> {
        let (shutdown, trigger) = Self::manual();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(heed(terminate, interrupt, trigger));
        Ok(shutdown)
    }

    /// Begins when the trigger says so.
    pub fn manual() -> (Self, Trigger) {
        let (sender, receiver) = watch::channel(false);
        (Self(receiver), Trigger(sender))
    }

    /// Waits until the shutdown begins; returns at once if it has.
    pub async fn begun(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|begun| *begun).await.is_err() {
            // The trigger is gone unused: there will never be a shutdown.
            std::future::pending::<()>().await;
        }
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        *self.0.borrow()
    }
}

impl Trigger {
    /// Begins the shutdown; further calls change nothing.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

async fn heed(mut terminate: Signal, mut interrupt: Signal, trigger: Trigger) {
    let first = next(&mut terminate, &mut interrupt).await;
    tracing::info!(signal = first.as_raw_value(), "shutdown begins");
    trigger.begin();
    let second = next(&mut terminate, &mut interrupt).await;
    // The process ends either way, so a closed standard error changes nothing.
    let _ = writeln!(io::stderr(), "second signal: stopping at once, unfinished work is lost");
    std::process::exit(128 + second.as_raw_value());
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn every_clone_hears_the_trigger() {
        let (shutdown, trigger) = Shutdown::manual();
        let clone = shutdown.clone();
        let waiting = tokio::spawn(async move { clone.begun().await });
        assert!(!shutdown.is_begun());
        trigger.begin();
        waiting.await.unwrap();
        assert!(shutdown.is_begun());
        shutdown.begun().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_trigger_begins_nothing() {
        let (shutdown, trigger) = Shutdown::manual();
        drop(trigger);
        let waited = tokio::time::timeout(Duration::from_mins(1), shutdown.begun()).await;
        assert!(waited.is_err(), "begun without a trigger");
    }
}
