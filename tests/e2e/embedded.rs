//! The tiny pair that the programs carry, over a real socket: it solves the problems that the demo
//! asks, and calls for it.

use prometheus_client::registry::Registry;
use relay_chassis::shutdown::Shutdown;
use relay_edge::config::PolicyKind;
use relay_edge::metrics::Metrics;
use relay_edge::{EdgeSettings, Question, Session};
use relay_model::{LoadOptions, ModelSource, TINY_LLM, TINY_SLM, load};
use relay_tests::cloud::Cloud;
use relay_tests::edge;
use relay_train::grader::grade;
use relay_train::split::Record;

const PROBLEMS: &str = include_str!("../../xtask/demo/problems.jsonl");

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_pair_solves_the_demos_problems() {
    let plain_texts = relay::command::TAGS.map(str::to_owned).to_vec();
    let options = LoadOptions { plain_texts, threads: Some(1), ..LoadOptions::default() };
    let load = |folder| load(ModelSource::Embedded(folder), &options).unwrap();
    let cloud = Cloud::serve(load(&TINY_LLM), |_| ()).await.unwrap();
    let mut settings = EdgeSettings { seed: Some(1), ..edge::settings(&cloud.url()) };
    settings.policy.kind = PolicyKind::Learned;
    settings.budget.max_tokens = 700;
    for line in PROBLEMS.lines() {
        let problem: Record = serde_json::from_str(line).unwrap();
        let metrics = Metrics::register(&mut Registry::default());
        let mut session = Session::new(settings.clone(), load(&TINY_SLM), metrics).unwrap();
        let (never, _) = Shutdown::manual();
        let question = Question::Chat(&problem.question);
        let report = session.answer(question, &mut |_, _| (), &never).await.unwrap();
        session.close().await;
        assert!(grade(&problem.answer, &report.answer).correct, "{line}\n{}", report.answer);
        assert!(report.calls > 0 && report.llm_tokens > 0, "{}", report.answer);
    }
    cloud.stop().await.unwrap();
}
