//! The promises that take an edge and a cloud to keep. Those that either side keeps alone are
//! tested beside it: `grep -rn promise_ --include=*.rs` lists them all.

use std::path::Path;
use std::time::Duration;

use relay::effect::Author;
use relay_edge::{EdgeSettings, Report};
use relay_tests::cloud::{Cloud, scripted};
use relay_tests::edge::{self, Slm};
use relay_tests::faults::FaultProxy;
use relay_tests::process::CloudProcess;
use relay_tests::scripts::llm_rule;

const PROMPT: &str = "promise me";

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_scripted-cloud"))
}

async fn ask(settings: EdgeSettings) -> Report {
    edge::ask(settings, Slm::default(), PROMPT).await.unwrap()
}

/// Answers, and sends the cloud this signal once the LLM's first word is there.
async fn answer_and_signal(
    settings: EdgeSettings,
    slm: Slm,
    cloud: &CloudProcess,
    signal: &str,
) -> Report {
    let mut session = edge::session(settings, slm).unwrap();
    let mut sent = false;
    let report = edge::answer(&mut session, PROMPT, |author, _| {
        if author == Author::Llm && !sent {
            cloud.signal(signal).unwrap();
            sent = true;
        }
    });
    let report = report.await.unwrap();
    assert!(sent, "{report:?}");
    report
}

/// An edge that gives up early: a short budget, and a breaker that opens at the first failure.
fn impatient(url: &str) -> EdgeSettings {
    let mut settings = edge::settings(url);
    settings.uplink.call_budget_ms = 200;
    settings.uplink.budget_grace_ms = 100;
    settings.uplink.idle_timeout_ms = 3_600_000;
    settings.breaker.failures = 1;
    settings.breaker.open_ms = 3_600_000;
    settings.cool_down_tokens = 0;
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_always_an_answer_from_a_black_hole() {
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    let proxy = FaultProxy::start(cloud.address()).await.unwrap();
    proxy.black_hole(true);
    let report = ask(impatient(&format!("http://{}", proxy.address()))).await;
    assert!(report.degraded && report.ending == "end_of_text" && report.calls > 2, "{report:?}");
    assert!(!report.answer.is_empty());
    // One budget and its grace for the first call; nothing once the breaker is open.
    assert!((200..1_500).contains(&report.cloud_ms), "{report:?}");
    assert_eq!((report.describes, proxy.connections()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_always_an_answer_from_a_stopped_process() {
    let cloud = CloudProcess::start(program(), &[]).await.unwrap();
    // The connection is good until the process stops in the middle of the answer.
    let settings = impatient(&cloud.url());
    let report = answer_and_signal(settings, Slm::default(), &cloud, "STOP").await;
    cloud.signal("CONT").unwrap();
    assert!(report.degraded && report.ending == "end_of_text", "{report:?}");
    assert!(report.cloud_ms < 2_000, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_always_an_answer_from_nobody() {
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    let url = cloud.url();
    cloud.stop().await.unwrap();
    let report = ask(impatient(&url)).await;
    assert!(report.degraded && report.llm_tokens == 0 && report.ending == "end_of_text");
    assert!(report.cloud_ms < 300, "more than one budget and its grace: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_drain_ends_the_call_under_way_whole() {
    let mut leaving = CloudProcess::start(program(), &["--step-delay-ms", "10"]).await.unwrap();
    // One call, and the answer ends with it.
    let slm = Slm { every: 16, call_tokens: 30, total: 50, ..Slm::default() };
    let report = answer_and_signal(edge::settings(&leaving.url()), slm, &leaving, "TERM").await;
    assert!(report.llm_tokens == 30 && !report.degraded, "{report:?}");
    assert_eq!((report.round_trips, report.retries), (1, 0), "the call was cut");
    assert_eq!(leaving.wait().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_6_drain_loses_no_answer() {
    let spare = Cloud::start(1, |_| ()).await.unwrap();
    let undisturbed = ask(edge::settings(&spare.url())).await;
    let mut leaving = CloudProcess::start(program(), &["--step-delay-ms", "20"]).await.unwrap();
    let mut settings = edge::settings(&leaving.url());
    settings.clouds.push(spare.url());
    let report = answer_and_signal(settings, Slm::default(), &leaving, "TERM").await;
    assert_eq!(report.legs, undisturbed.legs);
    assert!(!report.degraded, "{report:?}");
    assert_eq!(leaving.wait().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_8_batching_changes_nothing() {
    let step = Duration::from_millis(2);
    let cloud = Cloud::serve(scripted(llm_rule(1), step), |settings| {
        // Small pieces, and KV for three of the sessions: evictions on the way.
        settings.prefill_chunk_tokens = 5;
        settings.draft_tokens_max = 4;
        settings.step_tokens_max = 24;
        settings.calls_max = 2;
        settings.context_tokens_max = Some(256);
        settings.kv_bytes_max = 6 * 1024;
    });
    let cloud = cloud.await.unwrap();
    let alone = Cloud::start(1, |_| ()).await.unwrap();
    let prompts: Vec<String> = (0..8).map(|index| format!("question {index}")).collect();
    let mut asked = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let mut settings = edge::settings(&cloud.url());
        settings.sampling.temperature = 1.0;
        settings.draft_tokens_max = if index % 2 == 0 { 3 } else { 0 };
        settings.uplink.call_budget_ms = 60_000;
        let prompt = prompt.clone();
        asked.push(tokio::spawn(async move {
            edge::ask(settings, Slm::default(), &prompt).await.unwrap()
        }));
    }
    let mut resyncs = 0;
    for (prompt, asked) in prompts.iter().zip(asked) {
        let together = asked.await.unwrap();
        let mut settings = edge::settings(&alone.url());
        settings.sampling.temperature = 1.0;
        let alone = edge::ask(settings, Slm::default(), prompt).await.unwrap();
        assert_eq!(together.legs, alone.legs, "{prompt}");
        assert!(!together.degraded && together.calls >= 2, "{together:?}");
        resyncs += together.resyncs;
    }
    assert!(resyncs > 0, "nothing was evicted");
}
