//! What each view holds after whole answers, however the text is split into tokens.

use relay::call::FinishReason::{EndOfText, Length};
use relay::effect::{Author, Ending};
use relay::event::Event;
use relay::machine::{MachineSettings, OnCloudEnd};
use relay::policy::Policy;
use relay::refusal::Refusal;

use crate::world::{CONTROL, PROMPT, Reply, World, settings};

const LLM: &[Reply] = &[Reply::Write(&[" b", " c"], Length)];
const REFUSE: &[Reply] =
    &[Reply::Event(|attempt| Event::Refused { attempt, refusal: Refusal::TooLate })];

fn run(slm: &[&str], replies: &[Reply]) -> World {
    World::new(settings(Policy::Learned), slm, replies).run()
}

fn run_with(change: fn(&mut MachineSettings), slm: &[&str], replies: &[Reply]) -> World {
    let mut settings = settings(Policy::Learned);
    change(&mut settings);
    World::new(settings, slm, replies).run()
}

/// All ways to split `text` into at most three tokens.
fn splits(text: &str) -> Vec<Vec<&str>> {
    let mut splits = Vec::new();
    for first in 0..=text.len() {
        for second in first..=text.len() {
            let parts = [&text[..first], &text[first..second], &text[second..]];
            splits.push(parts.into_iter().filter(|part| !part.is_empty()).collect());
        }
    }
    splits
}

/// What the SLM's last token holds after the command that `tokens` write.
fn tail<'a>(tokens: &[&'a str]) -> &'a str {
    let end = tokens.concat().find("</call>").unwrap() + "</call>".len();
    let mut start = 0;
    for token in tokens {
        if start + token.len() >= end {
            return &token[end - start..];
        }
        start += token.len();
    }
    ""
}

#[test]
fn a_call_at_every_split() {
    let text = "a \t<call> 2 </call>.";
    for tokens in splits(text) {
        let world = run(&tokens, LLM);
        let rest = if tail(&tokens).is_empty() { "." } else { "" };
        assert_eq!(world.cloud(), format!("a b c{rest}"), "{tokens:?}");
        assert_eq!(world.reader(), world.cloud(), "{tokens:?}");
        assert_eq!(world.edge().replace(" b c", ""), text, "{tokens:?}");
        let asked = &world.orders[0];
        assert_eq!((asked.max_tokens, asked.base_tokens, asked.opens_call), (2, 0, true));
        assert_eq!(world.vocabulary.decode(&asked.delta), "a", "{tokens:?}");
        assert_eq!(world.ending, Some(Ending::EndOfText));
        assert_eq!(world.machine.account().llm_tokens, 2);
    }
}

#[test]
fn without_a_cloud_token_blanks_and_tail_return_at_every_split() {
    let text = "a \t<call>2</call> .";
    for tokens in splits(text) {
        let world = run(&tokens, REFUSE);
        assert_eq!(world.cloud(), "a \t .", "{tokens:?}");
        assert_eq!(world.reader(), "a \t .", "{tokens:?}");
        assert!(world.machine.account().degraded);
    }
    for tokens in splits("a <call>0</call> .") {
        let world = run(&tokens, &[]);
        assert_eq!((world.cloud(), world.reader()), ("a  .".into(), "a  .".into()), "{tokens:?}");
        assert_eq!(world.machine.account().zero_commands, 1);
    }
}

#[test]
fn what_returned_is_not_read_again() {
    // The tail of the first command and the token after it would make a second one.
    let world = run(&["<call>0</call><ca", "ll>5</call>"], &[]);
    assert_eq!(world.reader(), "<call>5</call>");
    assert_eq!(world.machine.account().calls, 0);
}

#[test]
fn text_that_is_no_command_is_kept_at_every_split() {
    for text in ["a <call>x</call> b", "<call", " <call>5", "a  b"] {
        for tokens in splits(text) {
            let world = run(&tokens, &[]);
            assert_eq!(world.reader(), text, "{tokens:?}");
            let views = world.machine.transcript();
            assert_eq!(views.cloud_answer_ids(), views.edge_answer_ids(), "{tokens:?}");
        }
    }
    assert_eq!(run(&["<call>x</call>"], &[]).machine.account().malformed_commands, 1);
    assert_eq!(run(&[" <call>5"], &[]).machine.account().unclosed_commands, 1);
}

#[test]
fn an_id_that_does_not_straddle_keeps_its_id() {
    let world = run(&["ab", " cd <", "call>2</call>"], LLM);
    let ids = world.machine.transcript().cloud_answer_ids();
    let mut vocabulary = world.vocabulary;
    let [whole, b, c] = ["ab", " b", " c"].map(|text| vocabulary.id(text.as_bytes()));
    // "ab" as sampled, " cd" on its own (bytes here), then the LLM's.
    assert_eq!(ids, [whole, 32, 99, 100, b, c]);
}

#[test]
fn text_of_the_prompt_and_of_the_llm_commands_nothing() {
    let llm = &[Reply::Write(&["<call>", "5</call>", "<ca"], Length)];
    let world = run(&["<call>3</call>", "ll>5</call>"], llm);
    assert_eq!(world.reader(), "<call>5</call><call>5</call>");
    assert_eq!(world.machine.account().calls, 1);
    assert_eq!(world.cloud(), world.reader());
    let mut machine = World::new(settings(Policy::Learned), &[], &[]);
    let id = machine.vocabulary.id(b"<call>5</call>");
    assert_eq!(machine.vocabulary.decode(&[id]), "<call>5</call>");
    assert_eq!(machine.run().machine.account().calls, 0);
}

#[test]
fn blanks_of_a_leg_are_not_taken_by_the_next_command() {
    let llm = &[Reply::Write(&["b "], Length), Reply::Write(&["d"], Length)];
    let world = run(&["<call>1</call>", "<call>1</call>"], llm);
    assert_eq!((world.reader(), world.cloud()), ("b d".into(), "b d".into()));
}

#[test]
fn a_control_token_breaks_a_command_and_stays_out_of_the_reader_view() {
    let world = run(&["<ca", "", "ll>5</call>"], &[]);
    assert_eq!(world.reader(), "<call>5</call>");
    let views = world.machine.transcript();
    assert!(views.cloud_answer_ids().contains(&CONTROL));
    assert_eq!(views.cloud_answer_ids(), views.edge_answer_ids());
}

#[test]
fn command_tokens_never_enter_the_cloud_view() {
    let mut settings = settings(Policy::Learned);
    let mut world = World::new(settings.clone(), &[], &[]);
    let tags = [world.vocabulary.id(b"<call>"), world.vocabulary.id(b"</call>")];
    settings.command_tokens = tags.to_vec();
    let world = World::new(settings, &["<call>", "x", "</call>", "<call>", "7"], &[]).run();
    assert_eq!(world.cloud(), "<call>x</call><call>7");
    let cloud = world.machine.transcript().cloud_answer_ids();
    assert!(tags.iter().all(|tag| !cloud.contains(tag)), "{cloud:?}");

    // Under the other policies only the opening tag is masked.
    let mut settings = crate::world::settings(Policy::Never);
    settings.command_tokens = tags.to_vec();
    let world = World::new(settings, &["<call>", "</call>"], &[]).run();
    assert_eq!(world.cloud(), "<call></call>");
    let cloud = world.machine.transcript().cloud_answer_ids();
    assert!(tags.iter().all(|tag| !cloud.contains(tag)), "{cloud:?}");
}

#[test]
fn the_reader_is_shown_text_as_soon_as_it_is_no_command_and_in_order() {
    let world = run(&["a", " <ca", "t <call>2</call>"], LLM);
    let emitted: Vec<&str> = world.emitted.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(emitted, ["a", " <cat", " b", " c"]);
}

#[test]
fn a_character_split_between_authors_belongs_to_the_leg_that_completes_it() {
    // "€" is E2 82 AC: the SLM writes the first two bytes, the LLM the last.
    let mut world = World::new(
        settings(Policy::Learned),
        &["x", "<call>1</call>"],
        &[
            Reply::Event(euro_end),
            Reply::Event(|attempt| Event::CloudStopped { attempt, reason: Length }),
        ],
    );
    world = world.with_drafts(|index, drafted| {
        if index == 0 {
            drafted.bytes = vec![b'x', 0xe2, 0x82];
        }
    });
    let world = world.run();
    let legs = world.machine.transcript().legs();
    assert_eq!((legs[0].author, legs[0].text.as_str()), (Author::Slm, "x"));
    assert_eq!((legs[1].author, legs[1].text.as_str()), (Author::Llm, "€"));
}

#[test]
fn a_character_that_never_ends_is_shown_as_one_replacement() {
    let world = World::new(settings(Policy::Learned), &["x"], &[])
        .with_drafts(|_, drafted| drafted.bytes = vec![b'x', 0xe2, 0x82])
        .run();
    let shown: String = world.emitted.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!((shown.as_str(), world.reader().as_str()), ("x\u{fffd}", "x\u{fffd}"));
}

fn euro_end(attempt: relay::ids::Attempt) -> Event {
    let token = relay::call::CloudToken { id: 700, log_probability: 0.0, position: 3 };
    Event::CloudToken { attempt, token, bytes: vec![0xac] }
}

#[test]
fn the_llm_ends_the_text() {
    let ends = &[Reply::Write(&[" b"], EndOfText)];
    let world = run(&["a", " <call>5</call>", "z"], ends);
    assert_eq!((world.reader(), world.ending), ("a b".into(), Some(Ending::CloudEndOfText)));
    let resume = |settings: &mut MachineSettings| settings.on_cloud_end = OnCloudEnd::Resume;
    let world = run_with(resume, &["a", " <call>5</call>", "z"], ends);
    assert_eq!((world.reader(), world.ending), ("a bz".into(), Some(Ending::EndOfText)));
    let at_once = &[Reply::Write(&[], EndOfText)];
    let world = run(&["a", " <call>5</call>!", "z"], at_once);
    assert_eq!((world.reader(), world.cloud()), ("a !".into(), "a !".into()));
    assert_eq!(world.ending, Some(Ending::CloudEndOfText));
    assert!(!world.machine.account().degraded);
}

#[test]
fn the_response_budget_ends_the_answer() {
    let short = |settings: &mut MachineSettings| settings.budget.response_tokens_max = 3;
    let world = run_with(short, &["a", "b", "<call>9", "</call>"], &[]);
    assert_eq!((world.reader(), world.ending), ("ab<call>9".into(), Some(Ending::Length)));
    // Two of three are spent when the call is made: one may be asked for.
    let world = run_with(short, &["a", "<call>9</call>"], &[Reply::Write(&["b"], Length)]);
    assert_eq!(world.orders[0].max_tokens, 1);
    assert_eq!(world.ending, Some(Ending::Length));
}

#[test]
fn grants_are_bound_by_every_limit() {
    let asked = |change: fn(&mut MachineSettings)| {
        let world = run_with(change, &["<call>9999</call>"], LLM);
        world.orders.first().map(|order| order.max_tokens)
    };
    assert_eq!(asked(|_| ()), Some(32));
    assert_eq!(asked(|settings| settings.budget.call_tokens_max = 7), Some(7));
    assert_eq!(asked(|settings| settings.budget.cloud_tokens_max = 3), Some(3));
    assert_eq!(asked(|settings| settings.budget.calls_max = 0), None);
    let mut world = World::new(settings(Policy::Learned), &["<call>9999</call>"], LLM);
    world.machine.limit_call_tokens(5);
    assert_eq!(world.run().orders[0].max_tokens, 5);
    let none = run_with(|s| s.budget.calls_max = 0, &["a <call>5</call>b"], &[]);
    assert_eq!(none.reader(), "a b");
    assert_eq!(none.machine.account().ungranted_commands, 1);
}

#[test]
fn the_second_call_ships_only_what_is_new() {
    let llm = &[Reply::Write(&[" b", " c"], Length), Reply::Write(&[" e"], Length)];
    let world = run(&["a", "<call>2</call>", "d", "<call>1</call>"], llm);
    let second = &world.orders[1];
    assert_eq!(second.base_tokens as usize, PROMPT.len() + 3);
    assert_eq!(world.vocabulary.decode(&second.delta), "d");
    let held = &world.machine.transcript().cloud_ids()[..second.base_tokens as usize];
    assert_eq!(second.base_hash, relay::prefix::prefix_hash(held));
    assert_eq!(world.machine.account().call_ratio(), 3.0 / 7.0);
    assert_eq!(world.caught_up.len(), 3);
}
