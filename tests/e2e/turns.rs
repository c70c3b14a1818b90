//! A conversation of several turns keeps its session: each turn ships only what the cloud has not
//! seen, and says what a cloud that forgot everything would be told.

use std::time::Duration;

use prometheus_client::registry::Registry;
use relay_chassis::shutdown::Shutdown;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeSettings, Question, Report, Session};
use relay_model::ChatTemplate;
use relay_tests::cloud::{Cloud, scripted};
use relay_tests::dealer::Dealer;
use relay_tests::edge;
use relay_tests::scripts::{CONTEXT_TOKENS, slm_rule};

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}[assistant]{% endif %}";
const QUESTIONS: [&str; 3] = ["first", "and then", "at last"];

fn chat(mut settings: EdgeSettings) -> Session {
    settings.budget.max_tokens = 120;
    let mut slm = scripted(slm_rule(16, 6, CONTEXT_TOKENS), Duration::ZERO);
    slm.chat_template = Some(ChatTemplate::new(TEMPLATE, "", "").unwrap());
    Session::new(settings, slm, Metrics::register(&mut Registry::default())).unwrap()
}

async fn turn(session: &mut Session, question: &str) -> Report {
    let (cancel, _trigger) = Shutdown::manual();
    let report = session.answer(Question::Chat(question), &mut |_, _| (), &cancel).await.unwrap();
    assert!(report.calls > 0 && !report.degraded, "{report:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn later_turns_ship_only_what_is_new() {
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    let dealer = Dealer::start(&[cloud.address()]).await.unwrap();
    let mut session = chat(edge::settings(&format!("http://{}", dealer.address())));
    let mut calls = 0;
    for question in QUESTIONS {
        let report = turn(&mut session, question).await;
        assert_eq!((report.resyncs, report.round_trips), (0, report.calls), "{report:?}");
        calls += report.calls as usize;
    }
    session.close().await;
    let dealt = dealer.dealt().await;
    assert_eq!(dealt.len(), calls);
    for (earlier, later) in dealt.iter().zip(&dealt[1..]) {
        assert_eq!(earlier.session_id, later.session_id);
        assert!(later.attempt > earlier.attempt && later.base_tokens > earlier.base_tokens);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_forgot_the_conversation_says_the_same() {
    let mut answers = Vec::new();
    for clouds in [1, 2] {
        let left = Cloud::start(1, |_| ()).await.unwrap();
        let right = Cloud::start(1, |_| ()).await.unwrap();
        let addresses = [left.address(), right.address()];
        let dealer = Dealer::start(&addresses[..clouds]).await.unwrap();
        let mut session = chat(edge::settings(&format!("http://{}", dealer.address())));
        let mut turns = Vec::new();
        for question in QUESTIONS {
            let report = turn(&mut session, question).await;
            assert_eq!(report.resyncs > 0, clouds > 1, "{report:?}");
            turns.push(report.legs);
        }
        answers.push(turns);
    }
    assert_eq!(answers[0], answers[1]);
}
