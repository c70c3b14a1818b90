//! A program as a process of its own, to be stopped and killed as an operating system would.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::cloud::WAIT;

/// A cloud that runs as a process; dropping it kills it.
pub struct CloudProcess {
    child: Child,
    address: SocketAddr,
    // Held so that the process never writes into a closed pipe.
    _output: Lines<BufReader<ChildStdout>>,
}

impl CloudProcess {
    /// Starts the program and waits for its lines `listening on ADDRESS` and `ready`.
    pub async fn start(program: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("no output")?;
        let mut output = BufReader::new(stdout).lines();
        let address = timeout(WAIT, async {
            let address = read_address(&mut output).await?;
            while let Some(line) = output.next_line().await? {
                if line == "ready" {
                    return Ok(address);
                }
            }
            bail!("the cloud ended before it was ready")
        });
        let address = address.await.context("the cloud is not ready in time")??;
        Ok(Self { child, address, _output: output })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same for an edge that speaks plain HTTP/2.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`).
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.child.id().context("the process is gone")?;
        let status = std::process::Command::new("kill")
            .args([format!("-{name}"), id.to_string()])
            .status()?;
        anyhow::ensure!(status.success(), "kill -{name} {id} failed");
        Ok(())
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        timeout(WAIT, self.child.wait()).await.context("the process does not end")?.context("wait")
    }
}

async fn read_address(output: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<SocketAddr> {
    while let Some(line) = output.next_line().await? {
        if let Some(address) = line.strip_prefix("listening on ") {
            return Ok(address.parse()?);
        }
    }
    bail!("the cloud ended before it listened")
}
