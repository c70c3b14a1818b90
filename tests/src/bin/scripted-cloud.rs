//! A cloud process with a scripted model, for tests that kill it. Speaks as `relay-cloud serve`
//! does: `listening on ADDRESS`, then `ready`, and drains on SIGTERM.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::Parser;
use relay_chassis::health::{Health, HealthState};
use relay_chassis::shutdown::Shutdown;
use relay_cloud::CloudSettings;
use relay_tests::cloud::scripted;
use relay_tests::scripts::llm_rule;
use tokio::net::TcpListener;

/// What a test may choose.
#[derive(Parser)]
struct Arguments {
    /// Seed of the LLM's rule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Every step takes at least this long.
    #[arg(long, default_value_t = 0)]
    step_delay_ms: u64,
    /// How long a drain may take.
    #[arg(long, default_value_t = 5)]
    drain_timeout_s: u64,
    /// Port on loopback; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await?;
    println!("listening on {}", listener.local_addr()?);
    let settings = CloudSettings {
        insecure: true,
        drain_timeout_s: arguments.drain_timeout_s,
        ..CloudSettings::default()
    };
    let model = scripted(llm_rule(arguments.seed), Duration::from_millis(arguments.step_delay_ms));
    let health = Health::new();
    let mut state = health.watch();
    tokio::spawn(async move {
        if state.wait_for(|state| *state == HealthState::Ready).await.is_ok() {
            println!("ready");
        }
    });
    let shutdown = Shutdown::on_signals()?;
    Ok(relay_cloud::serve(settings, move || Ok(model), listener, health, shutdown).await?)
}
