//! An edge in this process with a scripted SLM, and one answer of it.

use std::path::PathBuf;
use std::time::Duration;

use prometheus_client::registry::Registry;
use relay::effect::Author;
use relay_chassis::shutdown::Shutdown;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeSettings, Question, Report, Session};

use crate::cloud::scripted;
use crate::scripts::slm_rule;

/// Settings of an edge that calls the cloud at `url` by command, without TLS.
pub fn settings(url: &str) -> EdgeSettings {
    let mut settings = EdgeSettings {
        model: PathBuf::from("scripted"),
        clouds: vec![url.to_owned()],
        insecure: true,
        seed: Some(11),
        ..EdgeSettings::default()
    };
    settings.uplink.retries_max = 10;
    settings.uplink.back_off_ms = 10;
    settings.uplink.back_off_max_ms = 50;
    settings.breaker.failures = 1000;
    settings
}

/// What the scripted SLM writes.
#[derive(Clone, Copy, Debug)]
pub struct Slm {
    /// A command once so many tokens stand behind the last one.
    pub every: usize,
    /// For so many tokens.
    pub call_tokens: u32,
    /// The text ends once the view holds so many ids.
    pub total: usize,
    /// A step takes at least this long.
    pub step_delay: Duration,
}

impl Default for Slm {
    fn default() -> Self {
        Self { every: 16, call_tokens: 6, total: 240, step_delay: Duration::ZERO }
    }
}

/// A session with this SLM.
pub fn session(settings: EdgeSettings, slm: Slm) -> anyhow::Result<Session> {
    let rule = slm_rule(slm.every, slm.call_tokens, slm.total);
    let metrics = Metrics::register(&mut Registry::default());
    Ok(Session::new(settings, scripted(rule, slm.step_delay), metrics)?)
}

/// One answer to a raw prompt; `emit` sees each text with its author as it comes.
pub async fn answer(
    session: &mut Session,
    prompt: &str,
    mut emit: impl FnMut(Author, &str) + Send,
) -> anyhow::Result<Report> {
    let (cancel, _trigger) = Shutdown::manual();
    Ok(session.answer(Question::Raw(prompt), &mut emit, &cancel).await?)
}

/// The answer of a fresh session.
pub async fn ask(settings: EdgeSettings, slm: Slm, prompt: &str) -> anyhow::Result<Report> {
    let mut session = session(settings, slm)?;
    let report = answer(&mut session, prompt, |_, _| ()).await?;
    session.close().await;
    Ok(report)
}
