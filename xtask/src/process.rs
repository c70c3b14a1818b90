//! A child process that is always stopped, whatever happens to its parent's plans, and the Ctrl-C
//! that may happen to them. Knows nothing of what the child does.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Named bounds of this file.
mod limits {
    use std::time::Duration;

    /// How long a child may take to stop when asked; then it is killed.
    pub(super) const STOP: Duration = Duration::from_secs(15);
    /// How often a wait looks for Ctrl-C and for the child's end.
    pub(super) const BEAT: Duration = Duration::from_millis(25);
    /// Lines of a child's output that may wait to be looked at; later ones only reach its log.
    pub(super) const LINES_WAITING: usize = 256;
    /// Of a child's errors that are kept.
    pub(super) const WORDS_BYTES: u64 = 64 * 1024;
}

/// Has the user asked us to stop? (Ctrl-C, or SIGTERM or SIGHUP from elsewhere.)
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on; the signals no longer end this process by themselves.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))
                .context("cannot listen for Ctrl-C")?;
        }
        Ok(Self(asked))
    }

    /// An error if the user has asked us to stop.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }
}

/// A running child. Dropping it asks it to stop, waits a bounded time, then kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    /// Starts a child in a process group of its own, so that Ctrl-C reaches us alone and the
    /// children are stopped in order.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    /// Has it ended by itself?
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for its end; calls `meanwhile` at each beat, whose error ends the wait.
    pub(crate) fn wait(
        &mut self,
        at_most: Duration,
        interrupt: &Interrupt,
        mut meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            interrupt.check()?;
            if started.elapsed() > at_most {
                bail!("{} took longer than {} s", self.name, at_most.as_secs());
            }
            meanwhile()?;
            std::thread::sleep(limits::BEAT);
        }
    }

    /// Its standard output, line by line; everything is copied to a log file.
    pub(crate) fn lines(&mut self, log: &Path) -> anyhow::Result<Lines> {
        let output = self.child.stdout.take().context("the child's output is not piped")?;
        let log = File::options().create(true).append(true).open(log)?;
        let (sender, receiver) = sync_channel(limits::LINES_WAITING);
        std::thread::spawn(move || copy_lines(BufReader::new(output), log, &sender));
        Ok(Lines(receiver))
    }

    /// What it says on standard error, collected on the side; the first part of it, if it is long.
    pub(crate) fn words(&mut self) -> anyhow::Result<JoinHandle<String>> {
        let output = self.child.stderr.take().context("the child's errors are not piped")?;
        Ok(std::thread::spawn(move || first_words(output)))
    }

    /// Asks it and its children to stop, waits, and kills them if they do not. Does nothing if it
    /// has ended.
    fn stop(&mut self) {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let Some(group) = group.filter(|_| !ended(&mut self.child)) else {
            return;
        };
        let _gone_meanwhile = kill_process_group(group, Signal::TERM);
        let asked = Instant::now();
        while !ended(&mut self.child) {
            if asked.elapsed() > limits::STOP {
                anstream::eprintln!("{} did not stop when asked: killed", self.name);
                break;
            }
            std::thread::sleep(limits::BEAT);
        }
        // Also what a child of it may have left running.
        let _gone_meanwhile = kill_process_group(group, Signal::KILL);
        let _status = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Lines of a child's standard output.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    /// Waits for a line that `picks` makes something of.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        at_most: Duration,
        interrupt: &Interrupt,
        picks: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            interrupt.check()?;
            match self.0.recv_timeout(limits::BEAT) {
                Ok(line) => {
                    if let Some(found) = picks(&line) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("it ended before it said {what}"),
            }
            if started.elapsed() > at_most {
                bail!("it did not say {what} within {} s", at_most.as_secs());
            }
        }
    }
}

/// Reads to the end, so that the child never blocks on a full pipe.
fn copy_lines(output: impl BufRead, mut log: File, sender: &SyncSender<String>) {
    for line in output.lines().map_while(Result::ok) {
        let _log_is_a_courtesy = writeln!(log, "{line}");
        let _nobody_may_be_waiting = sender.try_send(line);
    }
}

/// The first part of what comes; the rest is read too, so that the child never blocks.
fn first_words(mut output: impl Read) -> String {
    let mut words = Vec::new();
    let _kept = output.by_ref().take(limits::WORDS_BYTES).read_to_end(&mut words);
    let _rest = std::io::copy(&mut output, &mut std::io::sink());
    String::from_utf8_lossy(&words).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        Process::start("a shell", &mut command).unwrap()
    }

    fn is_running(pid: u32) -> bool {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[test]
    fn a_dropped_process_is_stopped() {
        let process = shell("exec sleep 60");
        let pid = process.child.id();
        assert!(is_running(pid));
        drop(process);
        assert!(!is_running(pid));
    }

    #[test]
    fn what_a_stopped_process_started_is_stopped_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = shell("sleep 60 & echo $!; wait");
        let lines = process.lines(&folder.path().join("log")).unwrap();
        let bound = Duration::from_secs(20);
        let pid = lines.wait_for("a pid", bound, &Interrupt::never(), |line| line.parse().ok());
        let pid: u32 = pid.unwrap();
        assert!(is_running(pid));
        drop(process);
        // Its output closes when the last holder of the pipe is gone.
        let end = lines.wait_for("more", bound, &Interrupt::never(), |_| None::<()>).unwrap_err();
        assert!(end.to_string().contains("ended before"), "{end}");
    }

    #[test]
    fn errors_are_collected() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no >&2; exit 3"]).stderr(Stdio::piped());
        let mut process = Process::start("a shell", &mut command).unwrap();
        assert_eq!(process.words().unwrap().join().unwrap(), "no\n");
    }

    #[test]
    fn a_line_is_waited_for_and_the_end_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut process = shell("echo one; echo two 2");
        let lines = process.lines(&log).unwrap();
        let wait = |picks: fn(&str) -> Option<String>| {
            lines.wait_for("it", Duration::from_secs(20), &Interrupt::never(), picks)
        };
        assert_eq!(wait(|line| line.strip_prefix("two ").map(str::to_owned)).unwrap(), "2");
        assert!(wait(|_| None).unwrap_err().to_string().contains("ended before"));
        assert_eq!(std::fs::read_to_string(log).unwrap(), "one\ntwo 2\n");
    }

    #[test]
    fn waits_end_at_their_bound_and_on_an_interrupt() {
        let mut process = shell("exec sleep 60");
        let none = Duration::ZERO;
        let error = process.wait(none, &Interrupt::never(), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        let interrupt = Interrupt(Arc::new(AtomicBool::new(true)));
        let error = process.wait(limits::STOP, &interrupt, || Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }
}
