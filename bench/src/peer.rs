//! llama.cpp's own measurements of the same file: runs llama-bench or, for several sequences,
//! llama-batched-bench, and reads their JSON.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::engine::Speeds;

mod limits {
    use std::time::Duration;

    /// How long a peer may measure: a long context takes minutes, what takes longer hangs.
    pub(super) const RUN_MAX: Duration = Duration::from_mins(30);
    /// How long its output may stay open once it has ended: something that it began may hold it.
    pub(super) const CLOSE_MAX: Duration = Duration::from_secs(5);
    /// What it may print; one that prints more finds its output closed.
    pub(super) const OUTPUT_BYTES_MAX: u64 = 16 << 20;
    /// Time between two looks whether it is done.
    pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
}

/// A llama-bench, or a llama-batched-bench, and what it is asked to measure.
pub(crate) struct Peer<'a> {
    pub(crate) program: &'a Path,
    pub(crate) model: &'a Path,
    pub(crate) threads: usize,
    pub(crate) prompt: usize,
    pub(crate) generated: usize,
    /// Tokens held before decoding starts.
    pub(crate) context: usize,
    /// Sequences decoded together.
    pub(crate) batch: usize,
}

/// One of its results; it has one for prefill and one for decode.
#[derive(Debug, Deserialize)]
struct Measured {
    n_prompt: usize,
    n_gen: usize,
    avg_ts: f64,
}

/// What llama-batched-bench says of all sequences together.
#[derive(Debug, Deserialize)]
struct Batched {
    speed_pp: f64,
    speed_tg: f64,
}

impl Peer<'_> {
    /// Measures prefill and decode once.
    pub(crate) fn run(&self) -> anyhow::Result<Speeds> {
        let (speeds, kind) = if self.batch == 1 {
            (self.one_sequence(), "llama-bench")
        } else {
            (self.all_sequences(), "llama-batched-bench")
        };
        let shown = self.program.display();
        let speeds = speeds.with_context(|| {
            format!("the peer {shown}, which was asked as a {kind}: is it one, and does it run?")
        })?;
        let is_speed = |tps: f64| tps.is_finite() && tps > 0.0;
        if is_speed(speeds.prefill_tps) && is_speed(speeds.decode_tps) {
            return Ok(speeds);
        }
        bail!("{shown} says that nothing was computed: {speeds:?}")
    }

    /// Its prefill is that of all sequences' contexts.
    fn all_sequences(&self) -> anyhow::Result<Speeds> {
        let (batch, context, generated) = (self.batch, self.context, self.generated);
        let room = batch * (context + generated);
        let number = |count: usize| count.to_string();
        let said = self.ask(&[
            "--output-format",
            "jsonl",
            "-c",
            &number(room),
            "-npp",
            &number(context),
            "-ntg",
            &number(generated),
            "-npl",
            &number(batch),
        ])?;
        batched(&said)
    }

    fn one_sequence(&self) -> anyhow::Result<Speeds> {
        let repeats = ["-r", "1", "-o", "json"];
        let prefill =
            self.ask(&[&repeats[..], &["-p", &self.prompt.to_string(), "-n", "0"]].concat())?;
        let context = self.context.to_string();
        let generated = self.generated.to_string();
        let mut decode = [&repeats[..], &["-p", "0", "-n", &generated]].concat();
        if self.context > 0 {
            decode.extend(["-d", &context]);
        }
        let decode = self.ask(&decode)?;
        let prefill_tps = speed(&prefill, |result| result.n_prompt == self.prompt)?;
        let decode_tps = speed(&decode, |result| result.n_gen == self.generated)?;
        Ok(Speeds { prefill_tps, decode_tps })
    }

    fn ask(&self, what: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.program);
        command.arg("-m").arg(self.model).args(["-t", &self.threads.to_string()]).args(what);
        output(command, limits::RUN_MAX)
    }
}

/// What a program prints, if it ends well within `limit`; one that does not is ended.
fn output(mut command: Command, limit: Duration) -> anyhow::Result<String> {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot be started")?;
    let (said, complaint) = (read_aside(child.stdout.take()), read_aside(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            end(&mut child)?;
            bail!(
                "was not done after {} s and was stopped: measure fewer tokens (--prompt, --gen, \
                 --context), or see by hand why it hangs",
                limit.as_secs()
            );
        }
        std::thread::sleep(limits::LOOK_EVERY);
    };
    if !status.success() {
        let words = [joined(complaint)?, joined(said)?].concat();
        bail!("failed ({status}): {}", String::from_utf8_lossy(&words).trim());
    }
    Ok(String::from_utf8(joined(said)?)?)
}

fn end(child: &mut Child) -> std::io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

type Bytes = std::io::Result<Vec<u8>>;

/// Reads while the program runs: one that cannot write what it has to say would not end.
fn read_aside(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Bytes> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let most = limits::OUTPUT_BYTES_MAX;
        pipe.map_or(Ok(0), |pipe| pipe.take(most).read_to_end(&mut bytes)).map(|_| bytes)
    })
}

/// What was read by a program's end, or soon behind it.
fn joined(reader: JoinHandle<Bytes>) -> anyhow::Result<Vec<u8>> {
    let ended = Instant::now();
    while !reader.is_finished() {
        if ended.elapsed() > limits::CLOSE_MAX {
            bail!("ended, but something that it began keeps its output open: end that first");
        }
        std::thread::sleep(limits::LOOK_EVERY);
    }
    let Ok(bytes) = reader.join() else { bail!("what it printed could not be read") };
    Ok(bytes?)
}

fn speed(json: &str, is_wanted: impl Fn(&Measured) -> bool) -> anyhow::Result<f64> {
    let results: Vec<Measured> =
        serde_json::from_str(json).context("llama-bench printed something else than expected")?;
    let wanted = results.iter().find(|result| is_wanted(result));
    Ok(wanted.context("llama-bench did not measure what was asked")?.avg_ts)
}

/// The one line among others that is an object.
fn batched(said: &str) -> anyhow::Result<Speeds> {
    let line = said.lines().find(|line| line.starts_with('{'));
    let line = line.context("llama-batched-bench printed no result")?;
    let Batched { speed_pp, speed_tg } = serde_json::from_str(line)
        .context("llama-batched-bench printed something else than expected")?;
    Ok(Speeds { prefill_tps: speed_pp, decode_tps: speed_tg })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_peer_is_heard_and_one_that_fails_or_hangs_is_told() {
        let long = Duration::from_mins(1);
        assert_eq!(output(shell("echo loading >&2; echo 1"), long).unwrap(), "1\n");
        // More than a pipe holds.
        let much = output(shell("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"), long);
        assert_eq!(much.unwrap().len(), 300_000);
        let failed = output(shell("echo no such model >&2; exit 3"), long).unwrap_err();
        assert_eq!(failed.to_string(), "failed (exit status: 3): no such model");
        let plain = output(shell("echo to the wrong place; kill -9 $$"), long).unwrap_err();
        let plain = plain.to_string();
        assert!(plain.contains("signal: 9") && plain.contains("wrong place"), "{plain}");
        let endless = output(shell("exec yes"), long).unwrap_err().to_string();
        assert!(endless.starts_with("failed (signal: 13"), "{}", &endless[..99]);
        let left = output(shell("sleep 60 & echo 1"), long).unwrap_err().to_string();
        assert!(left.contains("keeps its output open"), "{left}");
        let start = Instant::now();
        let hung = output(shell("exec sleep 600"), Duration::from_millis(100)).unwrap_err();
        assert!(hung.to_string().contains("was not done after 0 s"), "{hung}");
        assert!(start.elapsed() < long);
    }

    #[test]
    fn its_speeds_are_read() {
        let json = r#"[{"n_prompt": 512, "n_gen": 0, "avg_ts": 300.5, "other": "x"},
                       {"n_prompt": 0, "n_gen": 128, "avg_ts": 99.0}]"#;
        assert!((speed(json, |result| result.n_gen == 128).unwrap() - 99.0).abs() < 1e-9);
        assert!(speed(json, |result| result.n_gen == 7).is_err());
        assert!(speed("error", |_| true).is_err());
    }

    #[test]
    fn speeds_of_a_batch_are_read() {
        let said = "\nloading\n{\"pl\": 8, \"speed_pp\": 700.5, \"speed_tg\": 250.25, \"t\": 1}\n";
        let speeds = batched(said).unwrap();
        assert!((speeds.prefill_tps - 700.5).abs() < 1e-9);
        assert!((speeds.decode_tps - 250.25).abs() < 1e-9);
        assert!(batched("error").is_err());
    }
}
