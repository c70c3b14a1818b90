//! A session against a fake cloud: every way a call may fail, and that the answer comes all the
//! same. The SLM is scripted, the network real.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fake_cloud;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fake_cloud::{FakeCloud, Reply, description, token_at};
use prometheus_client::registry::Registry;
use relay::call::{Description, FinishReason};
use relay::effect::Author;
use relay::ids::{Fingerprint, ModelId};
use relay::prefix::prefix_hash;
use relay::refusal::{LimitField, Refusal};
use relay_chassis::shutdown::Shutdown;
use relay_edge::config::PolicyKind;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeSettings, Question, Report, Session, vocabulary};
use relay_model::scripted::{ScriptedModel, byte_tokenizer, hash_rule};
use relay_model::{ChatTemplate, LoadedModel, ModelIdentity, TokenKind};
use tokio::net::TcpListener;
use tonic::Code;

const PROMPT: &str = "hello";
const PERIOD: u32 = 4;
const CALL_TOKENS: u32 = 3;

fn model(rule: impl Fn(&[u32]) -> u32 + Send + 'static) -> LoadedModel {
    LoadedModel {
        model: Box::new(ScriptedModel::new(257, 256, rule)),
        tokenizer: Arc::new(byte_tokenizer(&[])),
        chat_template: None,
        identity: ModelIdentity { name: "scripted".into(), hash: [0; 8] },
    }
}

/// One call after four tokens of the SLM, and an answer of eleven.
fn settings(clouds: &[String]) -> EdgeSettings {
    let mut settings = EdgeSettings {
        model: "scripted".into(),
        clouds: clouds.to_vec(),
        insecure: true,
        seed: Some(5),
        ..EdgeSettings::default()
    };
    settings.policy.kind = PolicyKind::Every;
    settings.policy.period_tokens = PERIOD;
    settings.policy.call_tokens = CALL_TOKENS;
    settings.budget.max_tokens = 11;
    settings.uplink.back_off_ms = 1;
    settings.uplink.back_off_max_ms = 2;
    settings
}

fn session(settings: EdgeSettings) -> Session {
    session_of(settings, hash_rule(1, 97..123))
}

fn session_of(settings: EdgeSettings, rule: impl Fn(&[u32]) -> u32 + Send + 'static) -> Session {
    settings.validate().unwrap();
    Session::new(settings, model(rule), Metrics::default()).unwrap()
}

async fn answer(session: &mut Session) -> Report {
    let (cancel, _trigger) = Shutdown::manual();
    session.answer(Question::Raw(PROMPT), &mut |_, _| {}, &cancel).await.unwrap()
}

fn described() -> Description {
    description(vocabulary::fingerprint(&byte_tokenizer(&[])))
}

async fn cloud(script: &[Reply]) -> FakeCloud {
    FakeCloud::start(described(), script).await
}

/// The LLM's tokens of a call after four of the SLM's.
fn llm_text(tokens: u32) -> String {
    let first = u32::try_from(PROMPT.len()).unwrap() + PERIOD;
    (first..first + tokens).map(|at| char::from(u8::try_from(token_at(at)).unwrap())).collect()
}

fn texts(report: &Report, author: &str) -> Vec<String> {
    let legs = report.legs.iter().filter(|leg| leg.author == author);
    legs.map(|leg| leg.text.clone()).collect()
}

async fn alone() -> String {
    let mut settings = settings(&[]);
    settings.policy.kind = PolicyKind::Never;
    answer(&mut session(settings)).await.answer
}

#[tokio::test]
async fn a_call_is_answered_counted_and_forgotten() {
    let cloud = cloud(&[]).await;
    let mut session = session(settings(&[cloud.url()]));
    let mut shown = String::new();
    let (cancel, _trigger) = Shutdown::manual();
    let mut show = |author, text: &str| {
        let letter = if author == Author::Llm { "L" } else { "s" };
        shown.push_str(&letter.repeat(text.len()));
    };
    let report = session.answer(Question::Raw(PROMPT), &mut show, &cancel).await.unwrap();
    assert_eq!(shown, "ssssLLLssss");
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
    assert_eq!((report.calls, report.llm_tokens, report.total_tokens), (1, 3, 11));
    assert_eq!((report.round_trips, report.describes, report.degraded), (1, 1, false));
    let sent: usize = cloud
        .requests()
        .into_iter()
        .map(|request| relay_proto::size::frame_bytes(&relay_proto::v1::CallRequest::from(request)))
        .sum();
    assert_eq!(report.bytes_up, sent as u64 + 5, "the calls, and an empty Describe");
    assert_eq!(report.bytes_down, cloud.sent_bytes());
    let request = &cloud.requests()[0];
    assert_eq!((request.base_tokens, request.delta.len()), (0, PROMPT.len() + 4));
    assert_eq!((request.max_tokens, request.seed), (3, 5));
    assert!((1..=20_000).contains(&request.budget_ms));
    session.close().await;
    assert_eq!(cloud.forgotten(), 1);
}

#[tokio::test]
async fn every_refusal_is_met_as_the_table_says() {
    let none = prefix_hash(&[]);
    let limit = Refusal::LimitExceeded { field: LimitField::CallTokens, limit: 1 };
    // Refusal, attempts that arrive, whether the answer is degraded.
    for (refusal, arrived, degraded) in [
        (Refusal::VocabularyMismatch, 1, true),
        (Refusal::ModelMismatch, 2, false),
        (limit, 1, true),
        (Refusal::Draining, 1, true),
        (Refusal::Overloaded { retry_after_ms: 1, advised_tokens: 0 }, 2, false),
        (Refusal::Overloaded { retry_after_ms: 60_000, advised_tokens: 0 }, 1, true),
        (Refusal::StaleAttempt { highest: 41 }, 2, false),
        (Refusal::PrefixUnknown { have_tokens: 0, have_hash: none }, 2, false),
        (Refusal::ContextFull { context_tokens: 8 }, 1, true),
        (Refusal::TooLate, 1, true),
    ] {
        let name = refusal.name();
        let cloud = cloud(&[Reply::Refuse(refusal)]).await;
        let report = answer(&mut session(settings(&[cloud.url()]))).await;
        assert_eq!(cloud.requests().len(), arrived, "{name}");
        assert_eq!(report.degraded, degraded, "{name}");
        assert_eq!(report.refusals.get(name), Some(&1), "{name}");
        let expected = if degraded { vec![] } else { vec![llm_text(3)] };
        assert_eq!(texts(&report, "llm"), expected, "{name}");
        assert_eq!(report.total_tokens, 11, "{name}: an answer in full");
        assert!(report.cloud_ms < 10_000, "{name}: waited for what cannot come in time");
        if name == "stale_attempt" {
            assert_eq!(cloud.requests()[1].attempt.number(), 42);
        }
    }
}

#[tokio::test]
async fn a_cut_stream_is_taken_up_where_it_was_cut() {
    let cuts = [
        Reply::Break(0, Code::Unavailable),
        Reply::Break(2, Code::Internal),
        Reply::Stop(1),
        Reply::Skip,
        Reply::Finish(1, FinishReason::Draining),
    ];
    for cut in cuts {
        let name = format!("{cut:?}");
        // Drained, the call goes elsewhere; cut, the same cloud will do.
        let clouds = [cloud(&[cut]).await, cloud(&[]).await];
        let urls = clouds.each_ref().map(FakeCloud::url);
        let report = answer(&mut session(settings(&urls))).await;
        assert_eq!(texts(&report, "llm"), [llm_text(3)], "{name}");
        assert_eq!((report.retries, report.degraded), (1, false), "{name}");
        assert_eq!(report.llm_tokens, 3, "{name}");
    }
}

#[tokio::test]
async fn other_statuses_and_reasons_hand_the_baton_back() {
    for (reply, kept) in [
        (Reply::Break(1, Code::PermissionDenied), 1),
        (Reply::Break(0, Code::InvalidArgument), 0),
        (Reply::Finish(2, FinishReason::Deadline), 2),
        (Reply::Finish(1, FinishReason::Cancelled), 1),
        (Reply::Finish(0, FinishReason::Superseded), 0),
        (Reply::Finish(1, FinishReason::ContextFull), 1),
    ] {
        let name = format!("{reply:?}");
        let cloud = cloud(&[reply]).await;
        let report = answer(&mut session(settings(&[cloud.url()]))).await;
        assert_eq!(cloud.requests().len(), 1, "{name}");
        assert!(report.degraded, "{name}");
        assert_eq!(texts(&report, "llm").concat(), llm_text(kept), "{name}");
        assert_eq!(report.total_tokens, 11, "{name}");
    }
}

#[tokio::test]
async fn the_llm_may_end_the_answer() {
    let cloud = cloud(&[Reply::Finish(1, FinishReason::EndOfText)]).await;
    let report = answer(&mut session(settings(&[cloud.url()]))).await;
    assert_eq!((report.ending, report.total_tokens), ("cloud_end_of_text", 5));
    assert!(!report.degraded);
}

#[tokio::test]
async fn a_token_that_ends_the_text_is_an_end_and_no_token() {
    let cloud = cloud(&[Reply::Say(256)]).await;
    let report = answer(&mut session(settings(&[cloud.url()]))).await;
    assert_eq!((report.ending, report.total_tokens), ("cloud_end_of_text", 4));
    assert_eq!((report.llm_tokens, report.degraded), (0, false));
    let begun = std::time::Instant::now();
    while cloud.open_streams() > 0 && begun.elapsed().as_secs() < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cloud.open_streams(), 0, "the stream is reset");
}

#[tokio::test]
async fn another_vocabulary_learns_of_no_prompt() {
    let stranger = FakeCloud::start(description(Fingerprint::new([7; 16])), &[]).await;
    let report = answer(&mut session(settings(&[stranger.url()]))).await;
    assert_eq!(stranger.describes(), 1);
    assert!(stranger.requests().is_empty(), "a prompt left the device");
    assert_eq!(report.refusals.get("vocabulary_mismatch"), Some(&1));
    assert_eq!((report.answer, report.degraded), (alone().await, true));

    let fitting = cloud(&[]).await;
    let report = answer(&mut session(settings(&[stranger.url(), fitting.url()]))).await;
    assert!(stranger.requests().is_empty(), "a prompt left the device");
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
}

#[tokio::test]
async fn another_protocol_version_learns_of_no_prompt() {
    let mut later = described();
    later.protocol_version = 2;
    let cloud = FakeCloud::start(later, &[]).await;
    let report = answer(&mut session(settings(&[cloud.url()]))).await;
    assert!(cloud.requests().is_empty());
    assert!(report.degraded);
}

#[tokio::test]
async fn a_limit_of_the_description_is_kept_before_anything_leaves() {
    let mut narrow = described();
    narrow.limits.call_tokens_max = 2;
    let cloud = FakeCloud::start(narrow.clone(), &[]).await;
    let mut one_call = settings(&[cloud.url()]);
    one_call.budget.calls_max = 1;
    let report = answer(&mut session(one_call)).await;
    assert_eq!(cloud.requests()[0].max_tokens, 2);
    assert_eq!(texts(&report, "llm"), [llm_text(2)]);
    assert!(!report.degraded);

    narrow.limits.message_bytes_max = 20;
    let cloud = FakeCloud::start(narrow, &[]).await;
    let report = answer(&mut session(settings(&[cloud.url()]))).await;
    assert!(cloud.requests().is_empty());
    assert_eq!(report.refusals.get("limit_exceeded"), Some(&1));
}

#[tokio::test]
async fn an_id_that_the_slm_lacks_is_not_taken() {
    let cloud = cloud(&[Reply::Say(257)]).await;
    let report = answer(&mut session(settings(&[cloud.url()]))).await;
    assert_eq!((report.answer, report.degraded), (alone().await, true));
}

#[tokio::test]
async fn each_call_may_wait_once_and_each_answer_asks_anew() {
    let busy = Reply::Refuse(Refusal::Overloaded { retry_after_ms: 1, advised_tokens: 0 });
    let foreign = Reply::Refuse(Refusal::VocabularyMismatch);
    let cloud = cloud(&[busy.clone(), Reply::Serve, busy, Reply::Serve, foreign]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.budget.max_tokens = 14;
    settings.cool_down_tokens = 0;
    let mut session = session(settings);
    let report = answer(&mut session).await;
    assert_eq!((report.calls, report.llm_tokens, report.degraded), (2, 6, false));
    assert!(answer(&mut session).await.degraded, "excluded for the rest of the answer");
    assert!(!answer(&mut session).await.degraded, "and asked again in the next");
}

#[tokio::test]
async fn two_overloaded_clouds_are_asked_once_each_and_one_once_more() {
    let busy = vec![Reply::Refuse(Refusal::Overloaded { retry_after_ms: 1, advised_tokens: 0 }); 9];
    let clouds = [cloud(&busy).await, cloud(&busy).await];
    let urls = clouds.each_ref().map(FakeCloud::url);
    let report = answer(&mut session(settings(&urls))).await;
    assert_eq!(clouds.each_ref().map(|cloud| cloud.requests().len()), [1, 2]);
    assert!(report.degraded);
}

#[tokio::test]
async fn a_draining_cloud_sends_the_call_to_the_next() {
    let clouds = [cloud(&[Reply::Refuse(Refusal::Draining)]).await, cloud(&[]).await];
    let urls = clouds.each_ref().map(FakeCloud::url);
    let report = answer(&mut session(settings(&urls))).await;
    assert_eq!(clouds.each_ref().map(|cloud| cloud.requests().len()), [1, 1]);
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
    assert!(!report.degraded);
}

#[tokio::test]
async fn after_goaway_a_new_connection_is_described_and_used() {
    let first = cloud(&[]).await;
    let address = first.address;
    let mut session = session(settings(&[first.url()]));
    assert!(!answer(&mut session).await.degraded);
    first.stop().await;
    let second = FakeCloud::start_at(address, described(), &[]).await;
    let report = answer(&mut session).await;
    assert_eq!((second.describes(), second.requests().len()), (1, 1));
    assert_eq!((report.degraded, report.retries, report.describes), (false, 0, 1));
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
}

#[tokio::test]
async fn another_model_is_described_again_and_flagged() {
    let other = ModelId::new("other", [2; 8]);
    let cloud = cloud(&[Reply::ChangeModel(other.clone())]).await;
    let report = answer(&mut session(settings(&[cloud.url()]))).await;
    let models: Vec<ModelId> = cloud.requests().into_iter().map(|request| request.model).collect();
    assert_eq!(models, [ModelId::new("fake", [1; 8]), other]);
    assert!(report.model_changed && !report.degraded);
    assert_eq!((cloud.describes(), report.describes), (2, 2));
}

#[tokio::test]
async fn a_second_model_behind_a_reconnect_is_flagged() {
    let mut other = described();
    other.model = ModelId::new("other", [2; 8]);
    let clouds =
        [cloud(&[Reply::Break(1, Code::Unavailable)]).await, FakeCloud::start(other, &[]).await];
    let urls = clouds.each_ref().map(FakeCloud::url);
    let report = answer(&mut session(settings(&urls))).await;
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
    assert!(report.model_changed);
}

#[tokio::test]
async fn nobody_there_costs_the_tries_and_then_nothing() {
    let gone = cloud(&[]).await;
    let url = gone.url();
    gone.stop().await;
    let mut settings = settings(&[url]);
    settings.cool_down_tokens = 0;
    settings.budget.max_tokens = 30;
    settings.breaker.open_ms = 3_600_000;
    let mut session = session(settings);
    let report = answer(&mut session).await;
    assert!(report.degraded && report.calls > 1, "{report:?}");
    assert_eq!(report.retries, 2, "only the first call tried: the breaker is open");
    assert_eq!((report.bytes_up, report.round_trips, report.total_tokens), (0, 0, 30));
    assert_eq!(answer(&mut session).await.retries, 0);
}

#[tokio::test]
async fn a_silent_cloud_costs_one_budget_and_its_grace() {
    let silent = cloud(&[Reply::FallSilent(1), Reply::FallSilent(0)]).await;
    let mut settings = settings(&[silent.url()]);
    settings.uplink.call_budget_ms = 600;
    settings.uplink.budget_grace_ms = 100;
    settings.cool_down_tokens = 64;
    let report = answer(&mut session(settings)).await;
    assert!(report.degraded);
    assert_eq!(texts(&report, "llm"), [llm_text(1)], "what arrived stays");
    assert_eq!(report.total_tokens, 11);
    assert!((700..3_000).contains(&report.cloud_ms), "{}", report.cloud_ms);
}

#[tokio::test]
async fn a_cloud_that_says_nothing_in_time_has_failed_and_its_stream_is_reset() {
    let silent = cloud(&[Reply::FallSilent(0)]).await;
    let mut settings = settings(&[silent.url()]);
    settings.uplink.call_budget_ms = 600;
    settings.uplink.budget_grace_ms = 0;
    settings.breaker.failures = 1;
    settings.breaker.open_ms = 3_600_000;
    let mut session = session(settings);
    assert!(answer(&mut session).await.degraded);
    let report = answer(&mut session).await;
    assert_eq!((report.round_trips, report.degraded), (0, true), "the breaker is open");
    let begun = std::time::Instant::now();
    while silent.open_streams() > 0 && begun.elapsed().as_secs() < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(silent.open_streams(), 0, "an abandoned stream holds its place");
}

#[tokio::test]
async fn silence_cuts_the_stream_before_the_budget_ends() {
    let silent = cloud(&[Reply::FallSilent(1)]).await;
    let mut settings = settings(&[silent.url()]);
    settings.uplink.idle_timeout_ms = 500;
    let report = answer(&mut session(settings)).await;
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
    assert_eq!((report.retries, report.degraded), (1, false));
}

#[tokio::test]
async fn a_call_that_is_admitted_may_queue_for_its_first_token() {
    let cloud = cloud(&[Reply::Queue(Duration::from_millis(1_200))]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.uplink.idle_timeout_ms = 500;
    let report = answer(&mut session(settings)).await;
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
    assert_eq!((report.retries, report.degraded), (0, false));
}

/// A listener that takes connections and never says a word: time passes only where nothing else
/// can happen.
#[tokio::test(start_paused = true)]
async fn a_black_hole_is_left_by_the_connect_deadline() {
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hole.local_addr().unwrap());
    let mut settings = settings(&[url]);
    settings.uplink.connect_timeout_ms = 3_000;
    settings.breaker.failures = 1;
    let report = answer(&mut session(settings)).await;
    assert!(report.degraded);
    assert_eq!(report.total_tokens, 11);
    assert!((3_000..3_500).contains(&report.cloud_ms), "{}", report.cloud_ms);
}

#[tokio::test]
async fn draft_ids_are_at_most_what_the_cloud_takes() {
    let cloud = cloud(&[Reply::Break(1, Code::Unavailable)]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.draft_tokens_max = 3;
    let report = answer(&mut session(settings)).await;
    let drafts: Vec<Vec<u32>> = cloud.requests().into_iter().map(|request| request.draft).collect();
    assert_eq!(drafts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(drafts[0][1], drafts[1][0], "the guess goes on where the stream was cut");
    let guessed: String = drafts[0].iter().filter_map(|id| char::from_u32(*id)).collect();
    assert_eq!(guessed, alone().await[4..6], "greedy, the guess is what the SLM would say");
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
}

#[tokio::test]
async fn a_slow_guess_takes_a_part_of_the_budget_and_is_dropped() {
    let cloud = cloud(&[]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.draft_tokens_max = 64;
    settings.policy.call_tokens = 64;
    settings.budget.max_tokens = 68;
    settings.uplink.call_budget_ms = 2_000;
    settings.validate().unwrap();
    // Four drafts at once, then a guess that would take longer than the whole budget.
    let rule = hash_rule(1, 97..123);
    let slow = move |ids: &[u32]| {
        if ids.len() >= PROMPT.len() + 5 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        rule(ids)
    };
    let report = answer(&mut session_of(settings, slow)).await;
    let request = &cloud.requests()[0];
    assert!(request.draft.is_empty() && !report.degraded, "{report:?}");
    assert!((1_000..=1_500).contains(&request.budget_ms), "{}", request.budget_ms);
}

#[tokio::test]
async fn a_budget_that_ran_out_here_is_not_held_against_the_cloud() {
    let cloud = cloud(&[]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.uplink.call_budget_ms = 1;
    settings.breaker.failures = 1;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let model = model(hash_rule(1, 97..123));
    answer(&mut Session::new(settings, model, metrics).unwrap()).await;
    let mut shown = String::new();
    prometheus_client::encoding::text::encode(&mut shown, &registry).unwrap();
    assert!(!shown.contains("breaker_open{endpoint=\"0\"} 1"), "{shown}");
}

#[tokio::test]
async fn a_warm_sync_ships_ahead_and_changes_no_token() {
    let cloud = cloud(&[]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.warm_sync_tokens = Some(1);
    // The SLM takes its time until the first warm sync has arrived.
    let arrived = cloud.request_counter();
    let rule = hash_rule(1, 97..123);
    let patient = move |ids: &[u32]| {
        let begun = std::time::Instant::now();
        while arrived() == 0 && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        rule(ids)
    };
    let report = answer(&mut session_of(settings, patient)).await;
    let requests = cloud.requests();
    assert!(requests.iter().any(|request| request.max_tokens == 0), "{requests:?}");
    let attempts: Vec<u64> = requests.iter().map(|request| request.attempt.number()).collect();
    assert!(attempts.is_sorted_by(|a, b| a < b), "{attempts:?}");
    assert_eq!(texts(&report, "llm"), [llm_text(3)]);
}

#[tokio::test]
async fn a_warm_sync_without_an_end_is_given_up() {
    let cloud = cloud(&[Reply::FallSilent(0)]).await;
    let mut settings = settings(&[cloud.url()]);
    settings.warm_sync_tokens = Some(1);
    settings.policy.period_tokens = 1_000;
    settings.uplink.call_budget_ms = 600;
    settings.uplink.budget_grace_ms = 0;
    // The SLM takes its time until the warm sync has arrived and its stream was reset.
    let streams = cloud.stream_counter();
    let arrived = cloud.request_counter();
    let (was_reset, rule) = (Arc::new(AtomicBool::new(false)), hash_rule(1, 97..123));
    let seen = Arc::clone(&was_reset);
    let patient = move |ids: &[u32]| {
        let begun = std::time::Instant::now();
        while !seen.load(Ordering::Relaxed) && begun.elapsed().as_secs() < 10 {
            seen.store(arrived() > 0 && streams() == 0, Ordering::Relaxed);
            std::thread::yield_now();
        }
        rule(ids)
    };
    let report = answer(&mut session_of(settings, patient)).await;
    assert!(was_reset.load(Ordering::Relaxed), "the stream was held for as long as it would last");
    assert_eq!((cloud.requests().len(), report.degraded), (1, false), "and no other was sent");
}

#[tokio::test]
async fn limits_of_two_clouds_bind_the_rest_of_a_call() {
    let broken = Reply::Break(1, Code::Unavailable);
    for (first, second, asked) in [(2, 64, [2, 1]), (64, 1, [3, 1])] {
        let mut clouds = Vec::new();
        for (limit, script) in [(first, vec![broken.clone()]), (second, Vec::new())] {
            let mut narrow = described();
            narrow.limits.call_tokens_max = limit;
            clouds.push(FakeCloud::start(narrow, &script).await);
        }
        let urls: Vec<String> = clouds.iter().map(FakeCloud::url).collect();
        let report = answer(&mut session(settings(&urls))).await;
        let max_tokens = clouds.iter().flat_map(FakeCloud::requests).map(|call| call.max_tokens);
        assert_eq!(max_tokens.collect::<Vec<_>>()[..2], asked);
        assert!(texts(&report, "llm")[0].starts_with(&llm_text(2)) && !report.degraded);
    }
}

#[tokio::test]
async fn a_second_turn_ships_only_what_is_new() {
    let cloud = cloud(&[]).await;
    let mut session = session(settings(&[cloud.url()]));
    answer(&mut session).await;
    let (cancel, _trigger) = Shutdown::manual();
    let longer = Question::Raw("hello there");
    session.answer(longer, &mut |_, _| {}, &cancel).await.unwrap();
    let requests = cloud.requests();
    assert_eq!(requests[1].session, requests[0].session);
    assert!(requests[1].attempt > requests[0].attempt);
    assert_eq!(requests[1].base_tokens as usize, PROMPT.len(), "the prompt in common");
    assert_eq!(cloud.describes(), 1, "one connection");
}

#[tokio::test]
async fn an_answer_that_spells_a_control_token_is_kept_in_the_next_turn() {
    const SPELLED: &str = "<|im_end|>";
    let tokenizer = byte_tokenizer(&[(SPELLED, TokenKind::Control)]);
    let cloud = FakeCloud::start(description(vocabulary::fingerprint(&tokenizer)), &[]).await;
    // In plain tokens, letter by letter, over and over.
    let spell = |ids: &[u32]| {
        let letters: Vec<u32> = SPELLED.bytes().map(u32::from).collect();
        let written = (1..letters.len()).rev().find(|&len| ids.ends_with(&letters[..len]));
        letters[written.unwrap_or(0)]
    };
    let template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
    let model = LoadedModel {
        model: Box::new(ScriptedModel::new(258, 256, spell)),
        tokenizer: Arc::new(tokenizer),
        chat_template: Some(ChatTemplate::new(template, "", "").unwrap()),
        identity: ModelIdentity { name: "scripted".into(), hash: [0; 8] },
    };
    let mut settings = settings(&[cloud.url()]);
    settings.policy.period_tokens = 12;
    settings.budget.max_tokens = 20;
    let mut session = Session::new(settings, model, Metrics::default()).unwrap();
    let (cancel, _trigger) = Shutdown::manual();
    for question in ["one", "two"] {
        let asked = session.answer(Question::Chat(question), &mut |_, _| {}, &cancel).await;
        let report = asked.unwrap();
        assert!(report.answer.contains(SPELLED) && !report.degraded, "{report:?}");
    }
    let [first, second] = &cloud.requests()[..] else { panic!("one call a turn") };
    let held = first.delta.len() + CALL_TOKENS as usize;
    assert_eq!((first.base_tokens, second.base_tokens as usize), (0, held), "cut");
    assert_eq!(second.delta.iter().filter(|&&id| id == 257).count(), 2, "the template's own");
}

#[tokio::test]
async fn a_model_without_a_chat_template_is_named() {
    let mut session = session(settings(&[]));
    let (cancel, _trigger) = Shutdown::manual();
    let refused = session.answer(Question::Chat("hi"), &mut |_, _| {}, &cancel).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.starts_with("scripted: the model has no chat template: use"), "{message}");
}

#[tokio::test]
async fn cancelling_keeps_what_there_is() {
    let cloud = cloud(&[Reply::FallSilent(2)]).await;
    let mut session = session(settings(&[cloud.url()]));
    let (cancel, trigger) = Shutdown::manual();
    let mut show = |author, _: &str| {
        if author == Author::Llm {
            trigger.begin();
        }
    };
    let report = session.answer(Question::Raw(PROMPT), &mut show, &cancel).await.unwrap();
    assert!(report.is_cancelled());
    let llm = texts(&report, "llm").concat();
    assert!(!llm.is_empty() && llm_text(2).starts_with(&llm), "{llm}");
}

#[tokio::test]
async fn no_cloud_at_all_is_no_fault_unless_one_is_called() {
    let mut quiet = settings(&[]);
    quiet.policy.kind = PolicyKind::Never;
    assert!(!answer(&mut session(quiet)).await.degraded);
    let report = answer(&mut session(settings(&[]))).await;
    assert!(report.degraded);
    assert_eq!(report.answer, alone().await);
}

#[tokio::test]
async fn a_prompt_that_leaves_no_room_is_refused() {
    let mut session = session(settings(&[]));
    let (cancel, _trigger) = Shutdown::manual();
    let long = "x".repeat(256);
    for (prompt, expected) in [(long.as_str(), "attends to 256"), (" ", "prompt is empty")] {
        let refused = session.answer(Question::Raw(prompt), &mut |_, _| {}, &cancel).await;
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(answer(&mut session).await.total_tokens, 11, "the session goes on");
}
