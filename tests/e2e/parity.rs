//! Edge and rollout are two drivers of one machine: with the same models, seed and settings they
//! write the same answer. The edge asks a real cloud over a real socket.

use prometheus_client::registry::Registry;
use relay::effect::{Author, Ending};
use relay::ids::ModelId;
use relay_edge::config::PolicyKind;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeSettings, Report, Session};
use relay_tests::cloud::Cloud;
use relay_tests::{edge, tiny};
use relay_train::evaluation::traffic::Traffic;
use relay_train::rollout::{Answer, Ask, Rollout, RolloutSettings};

const SLM_SEED: u64 = 1;
const LLM_SEED: u64 = 2;
const PROMPT: &str = "How many sides has a hexagon?";

/// What both drivers must agree on, but for ids.
#[derive(Debug, PartialEq)]
struct Outcome {
    text: String,
    legs: Vec<(&'static str, u32, String)>,
    ending: &'static str,
    calls: u32,
    requested_tokens: u64,
    granted_tokens: u64,
    llm_tokens: u32,
    total_tokens: u32,
    commands: [u32; 4],
}

impl From<Report> for Outcome {
    fn from(report: Report) -> Self {
        let legs = report.legs.into_iter();
        Self {
            text: report.answer,
            legs: legs.map(|leg| (leg.author, leg.tokens, leg.text)).collect(),
            ending: report.ending,
            calls: report.calls,
            requested_tokens: report.requested_tokens,
            granted_tokens: report.granted_tokens,
            llm_tokens: report.llm_tokens,
            total_tokens: report.total_tokens,
            commands: [
                report.zero_commands,
                report.malformed_commands,
                report.unclosed_commands,
                report.ungranted_commands,
            ],
        }
    }
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        let account = answer.account;
        let legs = answer.legs.into_iter();
        Self {
            text: answer.text,
            legs: legs.map(|leg| (author_name(leg.author), leg.tokens, leg.text)).collect(),
            ending: match answer.ending {
                Ending::EndOfText => "end_of_text",
                Ending::CloudEndOfText => "cloud_end_of_text",
                Ending::Length => "length",
                Ending::Cancelled => "cancelled",
            },
            calls: account.calls,
            requested_tokens: account.requested_tokens,
            granted_tokens: account.granted_tokens,
            llm_tokens: account.llm_tokens,
            total_tokens: account.total_tokens,
            commands: [
                account.zero_commands,
                account.malformed_commands,
                account.unclosed_commands,
                account.ungranted_commands,
            ],
        }
    }
}

fn author_name(author: Author) -> &'static str {
    match author {
        Author::Slm => "slm",
        Author::Llm => "llm",
    }
}

fn edge_settings(url: &str, kind: PolicyKind, temperature: f32, seed: u64) -> EdgeSettings {
    let mut settings = EdgeSettings { seed: Some(seed), ..edge::settings(url) };
    settings.policy.kind = kind;
    settings.policy.entropy_threshold_nats = 3.0;
    settings.policy.call_tokens = 3;
    settings.policy.probability = 0.15;
    settings.policy.period_tokens = 7;
    settings.budget.max_tokens = 150;
    settings.sampling.temperature = temperature;
    settings
}

/// The rollout's settings, from the edge's own.
fn rollout_settings(settings: &EdgeSettings) -> RolloutSettings {
    let sampling = relay_model::Sampling::at_temperature(settings.sampling.temperature);
    RolloutSettings {
        policy: settings.policy(),
        budget: settings.budget(u32::MAX),
        on_cloud_end: settings.on_cloud_end(),
        cool_down_tokens: settings.cool_down_tokens,
        student: sampling,
        teacher: sampling,
        rows_max: 8,
    }
}

/// The answer of an edge and its cloud, and what their two models saw.
async fn by_edge(kind: PolicyKind, temperature: f32, seed: u64) -> (Report, [Vec<u32>; 2]) {
    let (slm, slm_saw) = tiny::model(SLM_SEED).unwrap();
    let (llm, llm_saw) = tiny::model(LLM_SEED).unwrap();
    let cloud = Cloud::serve(llm, |_| ()).await.unwrap();
    let settings = edge_settings(&cloud.url(), kind, temperature, seed);
    let metrics = Metrics::register(&mut Registry::default());
    let mut session = Session::new(settings, slm, metrics).unwrap();
    let report = edge::answer(&mut session, PROMPT, |_, _| ()).await.unwrap();
    assert!(!report.degraded, "{report:?}");
    session.close().await;
    cloud.stop().await.unwrap();
    (report, [tiny::ids(&slm_saw), tiny::ids(&llm_saw)])
}

fn by_rollout(kind: PolicyKind, temperature: f32, seed: u64) -> (Answer, [Vec<u32>; 2]) {
    let (slm, slm_saw) = tiny::model(SLM_SEED).unwrap();
    let (llm, llm_saw) = tiny::model(LLM_SEED).unwrap();
    let prompt = slm.tokenizer.encode_bytes(PROMPT.as_bytes());
    let mut rollout = Rollout::new(slm, Some(llm)).unwrap();
    let settings = rollout_settings(&edge_settings("http://unused", kind, temperature, seed));
    let answer = rollout.answers(&[Ask { prompt, seed }], &settings).unwrap().remove(0);
    (answer, [tiny::ids(&slm_saw), tiny::ids(&llm_saw)])
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_and_rollout_write_the_same_transcript() {
    let (mut learned_calls, mut cloud_ends) = (0, 0);
    for kind in [
        PolicyKind::Learned,
        PolicyKind::Entropy,
        PolicyKind::Random,
        PolicyKind::Every,
        PolicyKind::Never,
        PolicyKind::Always,
    ] {
        for (temperature, seed) in [(0.0, 11), (0.8, 12), (1.0, 13), (1.0, 14)] {
            let what = format!("{kind:?} {temperature} {seed}");
            let (edge, edge_saw) = by_edge(kind, temperature, seed).await;
            let (answer, rollout_saw) = by_rollout(kind, temperature, seed);
            let ids: Vec<u32> = answer.tokens.iter().map(|token| token.id).collect();
            let view = [answer.prompt.clone(), ids].concat();
            assert_eq!(edge_saw[0], rollout_saw[0], "{what}: the student saw");
            // A cloud that is never called has seen its own warm-up only.
            if answer.account.calls > 0 {
                assert_eq!(edge_saw[1], rollout_saw[1], "{what}: the teacher saw");
            }
            assert!(view.starts_with(&edge_saw[0]), "{what}: the student saw {:?}", edge_saw[0]);
            let outcome = Outcome::from(answer);
            assert_eq!(Outcome::from(edge), outcome, "{what}");
            if kind == PolicyKind::Learned {
                learned_calls += outcome.calls;
            }
            cloud_ends += u32::from(outcome.ending == "cloud_end_of_text");
        }
    }
    assert!(learned_calls > 3, "the models hardly called: {learned_calls}");
    assert!(cloud_ends > 0, "the LLM never ended an answer");
}

/// Many rows in lock-step are as many edges one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_rollouts_is_so_many_edges() {
    let (slm, _) = tiny::model(SLM_SEED).unwrap();
    let (llm, _) = tiny::model(LLM_SEED).unwrap();
    let prompt = slm.tokenizer.encode_bytes(PROMPT.as_bytes());
    let asks: Vec<Ask> = (20..26).map(|seed| Ask { prompt: prompt.clone(), seed }).collect();
    let settings = edge_settings("http://unused", PolicyKind::Learned, 1.0, 0);
    let mut rollout = Rollout::new(slm, Some(llm)).unwrap();
    let answers = rollout.answers(&asks, &rollout_settings(&settings)).unwrap();
    for (ask, answer) in asks.iter().zip(answers) {
        let (edge, _) = by_edge(PolicyKind::Learned, 1.0, ask.seed).await;
        assert_eq!(Outcome::from(edge), Outcome::from(answer), "{}", ask.seed);
    }
}

/// Evaluation has no wire: what it says of bytes is read off the answer. An edge counts beside that
/// what it sends and hears on connecting, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_evaluation_says_of_bytes_is_what_an_edge_counts() {
    let (slm, _) = tiny::model(SLM_SEED).unwrap();
    let (llm, _) = tiny::model(LLM_SEED).unwrap();
    let llm = ModelId::new(llm.identity.name, llm.identity.hash);
    let mut calls = 0;
    for (kind, seed) in [
        (PolicyKind::Learned, 13),
        (PolicyKind::Entropy, 12),
        (PolicyKind::Random, 12),
        (PolicyKind::Every, 14),
        (PolicyKind::Always, 11),
    ] {
        let (report, _) = by_edge(kind, 1.0, seed).await;
        let (answer, _) = by_rollout(kind, 1.0, seed);
        let traffic = Traffic::of(&answer, &slm.tokenizer, &llm);
        calls += report.calls;
        for (estimated, counted, once) in
            [(traffic.bytes_up, report.bytes_up, 5), (traffic.bytes_down, report.bytes_down, 120)]
        {
            let apart = counted.saturating_sub(once).abs_diff(estimated);
            // These models write bytes that are no text; read off the text they are other ids.
            assert!(apart * 10 <= counted, "{kind:?}: {estimated} estimated, {counted} counted");
        }
    }
    assert!(calls > 20, "{calls} calls show little");
}
