//! What a call costs on the wire, with a real model: ids that the cloud has not seen, against the
//! whole text again at each call.

use std::path::PathBuf;
use std::time::Duration;

use prometheus_client::registry::Registry;
use relay_edge::config::PolicyKind;
use relay_edge::metrics::Metrics;
use relay_edge::{Report, Session};
use relay_model::{LoadOptions, load};
use relay_tests::cloud::Cloud;
use relay_tests::edge;
use relay_tests::faults::FaultProxy;

const CALLS: u32 = 5;

/// Bytes of UTF-8 text if each call sent prompt and answer so far, without any framing.
fn resent_text_bytes(prompt: &str, report: &Report) -> usize {
    let mut text_bytes = prompt.len();
    let mut resent_bytes = 0;
    for leg in &report.legs {
        if leg.author == "llm" {
            resent_bytes += text_bytes;
        }
        text_bytes += leg.text.len();
    }
    resent_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn five_calls_over_a_thousand_tokens_cost_a_quarter_of_resending() {
    let Some(path) = std::env::var_os("RELAY_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: RELAY_TEST_MODEL names no GGUF file (`cargo xtask model` brings one)");
        return;
    };
    let model = || load(&path, &LoadOptions::default()).unwrap();
    let (edge_model, cloud_model) = (model(), model());
    let sentence = "The baker sold nine loaves in the morning and four more before noon. ";
    let mut prompt = String::new();
    let tokens = |text: &str| edge_model.tokenizer.encode_bytes(text.as_bytes()).len();
    while tokens(&prompt) < 1000 {
        prompt += sentence;
    }
    let prompt_tokens = tokens(&prompt);
    let cloud = Cloud::serve(cloud_model, |_| ()).await.unwrap();
    let proxy = FaultProxy::start(cloud.address()).await.unwrap();
    let mut settings = edge::settings(&format!("http://{}", proxy.address()));
    settings.policy.kind = PolicyKind::Every;
    (settings.policy.period_tokens, settings.policy.call_tokens) = (4, 4);
    (settings.budget.calls_max, settings.budget.max_tokens) = (CALLS, 60);
    settings.uplink.call_budget_ms = 120_000;
    settings.uplink.idle_timeout_ms = 120_000;
    let metrics = Metrics::register(&mut Registry::default());
    let mut session = Session::new(settings, edge_model, metrics).unwrap();
    let answered = edge::answer(&mut session, &prompt, |_, _| ());
    let report = tokio::time::timeout(Duration::from_secs(170), answered).await.unwrap().unwrap();
    assert!(report.calls == CALLS && !report.degraded, "{report:?}");
    let resent_bytes = resent_text_bytes(&prompt, &report);
    println!(
        "prefix {prompt_tokens} tokens, {CALLS} calls: {} message bytes up ({} on the wire), \
         against {resent_bytes} bytes of text resent",
        report.bytes_up,
        proxy.up_bytes(),
    );
    assert!(proxy.up_bytes() >= report.bytes_up);
    assert!(report.bytes_up * 4 <= resent_bytes as u64);
    assert!(proxy.up_bytes() * 4 <= resent_bytes as u64);
}
