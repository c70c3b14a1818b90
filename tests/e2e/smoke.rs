//! One answer, undisturbed, against an independent account of what it must be.

use relay_tests::cloud::Cloud;
use relay_tests::edge::{self, Slm};
use relay_tests::scripts::{END_OF_TEXT, llm_rule, slm_rule};

/// The answer by hand: two rules, two lists of ids, no machine and no wire.
fn by_hand(prompt: &str, seed: u64, Slm { every, call_tokens, total, .. }: Slm) -> String {
    let command = relay::command::write_command(call_tokens);
    let (slm, llm) = (slm_rule(every, call_tokens, total), llm_rule(seed));
    let mut edge: Vec<u32> = prompt.bytes().map(u32::from).collect();
    let mut cloud = edge.clone();
    let prompt_tokens = cloud.len();
    loop {
        let id = slm(&edge);
        if id == END_OF_TEXT {
            let bytes: Vec<u8> =
                cloud[prompt_tokens..].iter().map(|id| u8::try_from(*id).unwrap()).collect();
            return String::from_utf8(bytes).unwrap();
        }
        edge.push(id);
        cloud.push(id);
        if cloud.ends_with(&command.bytes().map(u32::from).collect::<Vec<_>>()) {
            cloud.truncate(cloud.len() - command.len());
            for _ in 0..call_tokens {
                let id = llm(&cloud);
                cloud.push(id);
                edge.push(id);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_what_both_rules_say() {
    let cloud = Cloud::start(3, |_| ()).await.unwrap();
    let report = edge::ask(edge::settings(&cloud.url()), Slm::default(), "question").await.unwrap();
    assert_eq!(report.answer, by_hand("question", 3, Slm::default()));
    assert_eq!(report.llm_tokens, 6 * report.calls);
    assert!(report.calls >= 5 && !report.degraded, "{report:?}");
    assert_eq!(report.round_trips, report.calls);
    cloud.stop().await.unwrap();
}
