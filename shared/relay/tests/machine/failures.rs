//! Every way a call may fail, and what the machine does about it.

use relay::call::{Accepted, CloudToken, FinishReason};
use relay::conversation::Conversation;
use relay::effect::{CallOrder, Effect, Ending, Route};
use relay::event::{Drafted, Event, Start};
use relay::ids::Attempt;
use relay::machine::{ATTEMPTS_PER_CALL_MAX, Machine};
use relay::policy::Policy;
use relay::prefix::prefix_hash;
use relay::refusal::{LimitField, Refusal};

use crate::world::{PROMPT, Reply, World, settings};

/// A machine that has just asked for four tokens as attempt 1.
fn calling() -> Machine {
    let mut machine = Machine::new(settings(Policy::Learned));
    let prompt = PROMPT.to_vec();
    let start = Start { edge_prompt: prompt.clone(), cloud_prompt: prompt, ..Start::default() };
    machine.on(Event::Started(start));
    let bytes = b"<call>4</call>".to_vec();
    let effects = machine.on(Event::Drafted(Drafted { id: 7, bytes, ..Drafted::default() }));
    assert_eq!(order(&effects).attempt, Attempt::new(1));
    machine
}

fn order(effects: &[Effect]) -> &CallOrder {
    let order = effects.iter().find_map(|effect| match effect {
        Effect::Call(order) => Some(order),
        _ => None,
    });
    order.unwrap_or_else(|| panic!("no call in {effects:?}"))
}

fn is_alone(effects: &[Effect]) -> bool {
    matches!(effects.last(), Some(Effect::Draft { .. }))
        && !effects.iter().any(|effect| matches!(effect, Effect::Call(_)))
}

fn refuse(machine: &mut Machine, refusal: Refusal) -> Vec<Effect> {
    machine.on(Event::Refused { attempt: machine.last_attempt(), refusal })
}

fn token(machine: &mut Machine, position: u32) -> Vec<Effect> {
    let attempt = machine.last_attempt();
    let token = CloudToken { id: 70 + position, log_probability: 0.0, position };
    machine.on(Event::CloudToken { attempt, token, bytes: b"x".to_vec() })
}

fn accept(machine: &mut Machine, length_tokens: u32) -> Vec<Effect> {
    let attempt = machine.last_attempt();
    let accepted = Accepted { length_tokens, cached_tokens: 0, prefilled_tokens: length_tokens };
    machine.on(Event::Accepted { attempt, accepted })
}

#[test]
fn table_of_refusals() {
    let route_of = |refusal: Refusal| {
        let mut machine = calling();
        let name = refusal.name();
        let effects = refuse(&mut machine, refusal);
        assert_eq!(machine.account().refusals.get(name), Some(&1));
        if is_alone(&effects) { None } else { Some(order(&effects).route) }
    };
    let limit = Refusal::LimitExceeded { field: LimitField::CallTokens, limit: 1 };
    let overloaded = Refusal::Overloaded { retry_after_ms: 30, advised_tokens: 0 };
    for (refusal, route) in [
        (Refusal::VocabularyMismatch, Some(Route::NeverAgain)),
        (Refusal::ModelMismatch, Some(Route::DescribeAgain)),
        (limit, None),
        (Refusal::Draining, Some(Route::Next)),
        (overloaded, Some(Route::NextOrWait { wait_ms: 30 })),
        (Refusal::StaleAttempt { highest: 40 }, Some(Route::Any)),
        (Refusal::ContextFull { context_tokens: 2 }, None),
        (Refusal::TooLate, None),
    ] {
        assert_eq!(route_of(refusal.clone()), route, "{refusal:?}");
    }
}

#[test]
fn a_stale_number_is_raised_once() {
    let mut machine = calling();
    let effects = refuse(&mut machine, Refusal::StaleAttempt { highest: 40 });
    assert_eq!(order(&effects).attempt, Attempt::new(41));
    assert!(is_alone(&refuse(&mut machine, Refusal::StaleAttempt { highest: 50 })));
}

#[test]
fn another_model_is_accepted_once_and_flagged() {
    let mut machine = calling();
    refuse(&mut machine, Refusal::ModelMismatch);
    assert!(machine.account().model_changed);
    assert!(is_alone(&refuse(&mut machine, Refusal::ModelMismatch)));
}

#[test]
fn a_full_context_ends_calls_for_good() {
    let mut machine = calling();
    let effects = refuse(&mut machine, Refusal::ContextFull { context_tokens: 2 });
    assert!(matches!(effects.last(), Some(Effect::Draft { ban: Some(_) })));
    let mut machine = calling();
    let reason = FinishReason::ContextFull;
    let effects = machine.on(Event::CloudStopped { attempt: machine.last_attempt(), reason });
    assert!(matches!(effects.last(), Some(Effect::Draft { ban: Some(_) })));
    // The next answer of the session begins without calls.
    machine.on(Event::Cancelled);
    let mut conversation = Conversation::new();
    let plan = conversation.follow(&["P".to_owned()], &[]);
    conversation.begin(plan, PROMPT.to_vec());
    conversation.finish(&machine);
    let plan = conversation.follow(&["Q".to_owned()], &[]);
    let start = conversation.begin(plan, PROMPT.to_vec());
    let effects = Machine::new(settings(Policy::Learned)).on(Event::Started(start));
    assert!(matches!(effects.last(), Some(Effect::Draft { ban: Some(_) })));
}

#[test]
fn an_unknown_prefix_is_sent_from_where_both_agree_then_from_zero() {
    let mut machine = calling();
    accept(&mut machine, 2);
    let agreed = Refusal::PrefixUnknown { have_tokens: 1, have_hash: prefix_hash(&PROMPT[..1]) };
    let effects = refuse(&mut machine, agreed.clone());
    let first = order(&effects);
    assert_eq!(
        (first.base_tokens, first.delta.as_slice(), first.opens_call),
        (1, &PROMPT[1..], false)
    );
    let effects = refuse(&mut machine, agreed.clone());
    assert_eq!((order(&effects).base_tokens, order(&effects).delta.as_slice()), (0, PROMPT));
    assert!(is_alone(&refuse(&mut machine, agreed)));
    assert_eq!(machine.account().resyncs, 2);
}

#[test]
fn a_prefix_that_only_looks_alike_is_not_agreed_on() {
    for (have_tokens, ids) in [(1, &[9][..]), (3, &[500, 501, 502])] {
        let mut machine = calling();
        let have_hash = prefix_hash(ids);
        let effects = refuse(&mut machine, Refusal::PrefixUnknown { have_tokens, have_hash });
        assert_eq!(order(&effects).base_tokens, 0);
    }
}

#[test]
fn a_cut_stream_is_taken_up_for_the_rest() {
    let mut machine = calling();
    accept(&mut machine, 2);
    token(&mut machine, 2);
    let effects = machine.on(Event::Cut { attempt: Attempt::new(1) });
    let again = order(&effects);
    assert_eq!((again.attempt, again.base_tokens, again.max_tokens), (Attempt::new(2), 3, 3));
    assert!(again.delta.is_empty());
    // What the first attempt still says is dropped.
    let late = CloudToken { id: 1, log_probability: 0.0, position: 3 };
    let late = Event::CloudToken { attempt: Attempt::new(1), token: late, bytes: vec![b'y'] };
    assert_eq!(machine.on(late), []);
    assert_eq!(machine.account().llm_tokens, 1);
}

#[test]
fn a_cut_after_the_last_token_is_no_loss() {
    for reason in [None, Some(FinishReason::Draining)] {
        let mut machine = calling();
        accept(&mut machine, 2);
        (2..6).for_each(|position| drop(token(&mut machine, position)));
        let attempt = machine.last_attempt();
        let effects = machine.on(match reason {
            None => Event::Cut { attempt },
            Some(reason) => Event::CloudStopped { attempt, reason },
        });
        assert!(matches!(effects[0], Effect::CatchUp { .. }), "{effects:?}");
        assert!(is_alone(&effects) && !machine.account().degraded);
    }
}

#[test]
fn retries_after_cuts_are_bounded() {
    let mut machine = calling();
    let mut attempts = 1;
    while !is_alone(&machine.on(Event::Cut { attempt: machine.last_attempt() })) {
        attempts += 1;
    }
    assert_eq!(attempts, 1 + settings(Policy::Learned).retries_max);
}

#[test]
fn attempts_of_a_call_are_bounded_whatever_the_cloud_says() {
    let mut machine = calling();
    let mut attempts = 1;
    while !is_alone(&refuse(&mut machine, Refusal::Draining)) {
        attempts += 1;
    }
    assert_eq!(attempts, ATTEMPTS_PER_CALL_MAX);
}

#[test]
fn promise_2_at_most_once_a_token_out_of_order_or_too_many_counts_as_a_cut() {
    let mut machine = calling();
    accept(&mut machine, 2);
    let effects = token(&mut machine, 3);
    assert_eq!(effects[0], Effect::HangUp { attempt: Attempt::new(1) });
    assert_eq!(order(&effects).max_tokens, 4);
    let mut machine = calling();
    accept(&mut machine, 2);
    (2..6).for_each(|position| drop(token(&mut machine, position)));
    assert!(is_alone(&token(&mut machine, 6)));
    assert_eq!(machine.account().llm_tokens, 4);
}

#[test]
fn promise_1_prefix_agreement_a_length_that_is_not_ours_ends_the_call() {
    for lengths in [&[5][..], &[2, 2]] {
        let mut machine = calling();
        let effects = lengths.iter().map(|length| accept(&mut machine, *length)).last().unwrap();
        assert_eq!(effects[0], Effect::HangUp { attempt: Attempt::new(1) });
        assert!(is_alone(&effects), "a second `accepted` is no better than a false one");
    }
}

#[test]
fn draining_goes_on_elsewhere_with_what_is_left() {
    let mut machine = calling();
    accept(&mut machine, 2);
    token(&mut machine, 2);
    let attempt = machine.last_attempt();
    let effects = machine.on(Event::CloudStopped { attempt, reason: FinishReason::Draining });
    assert_eq!((order(&effects).route, order(&effects).max_tokens), (Route::Next, 3));
}

#[test]
fn every_other_stop_and_time_hand_the_baton_back() {
    let attempt = Attempt::new(1);
    let stopped = |reason| Event::CloudStopped { attempt, reason };
    for event in [
        stopped(FinishReason::Deadline),
        stopped(FinishReason::Cancelled),
        stopped(FinishReason::Superseded),
        Event::LinkDown { attempt },
        Event::TimeUp { attempt },
    ] {
        let mut machine = calling();
        let time_up = matches!(event, Event::TimeUp { .. });
        let effects = machine.on(event);
        assert!(is_alone(&effects) && machine.account().degraded, "{effects:?}");
        assert_eq!(effects.contains(&Effect::HangUp { attempt }), time_up);
    }
}

#[test]
fn cancelling_hangs_up_and_keeps_what_arrived() {
    let mut machine = calling();
    accept(&mut machine, 2);
    token(&mut machine, 2);
    let effects = machine.on(Event::Cancelled);
    assert_eq!(effects.first(), Some(&Effect::HangUp { attempt: Attempt::new(1) }));
    assert_eq!(effects.last(), Some(&Effect::Finish(Ending::Cancelled)));
    assert_eq!(machine.transcript().reader_text(), "x");
    assert_eq!(machine.on(Event::Cancelled), []);
}

#[test]
fn a_warm_sync_in_flight_gives_way_to_a_call() {
    let mut settings = settings(Policy::Learned);
    settings.warm_sync_tokens = Some(1);
    let silent = Reply::Event(|attempt| Event::TimeUp { attempt });
    let llm = &[silent, Reply::Write(&["x"], FinishReason::Length)];
    let world = World::new(settings, &["a", "<call>1</call>"], llm).run();
    assert_eq!(world.reader(), "ax");
    assert_eq!(world.orders[1].attempt, Attempt::new(2));
}

#[test]
fn warm_syncs_that_fail_stop_and_degrade_nothing() {
    for reply in [
        Reply::Event(|attempt| Event::Cut { attempt }),
        Reply::Event(|attempt| Event::LinkDown { attempt }),
        Reply::Event(|attempt| Event::Refused { attempt, refusal: Refusal::TooLate }),
    ] {
        let mut settings = settings(Policy::Learned);
        settings.warm_sync_tokens = Some(1);
        let world = World::new(settings, &["a", "b", "c"], &[reply]).run();
        assert_eq!((world.orders.len(), world.reader()), (1, "abc".into()));
        assert!(!world.machine.account().degraded);
    }
}

#[test]
fn warm_syncs_stop_when_the_prefix_stays_unknown() {
    let mut settings = settings(Policy::Learned);
    settings.warm_sync_tokens = Some(1);
    let unknown = Reply::Event(|attempt| Event::Refused {
        attempt,
        refusal: Refusal::PrefixUnknown { have_tokens: 9, have_hash: prefix_hash(&[]) },
    });
    let world = World::new(settings, &["a", "b", "c", "d", "e"], &vec![unknown; 3]).run();
    assert_eq!((world.orders.len(), world.machine.account().resyncs), (3, 3));
}

#[test]
fn a_warm_sync_in_flight_is_hung_up_at_the_end() {
    let mut settings = settings(Policy::Learned);
    settings.warm_sync_tokens = Some(1);
    let mut machine = Machine::new(settings);
    let start = Start { cloud_prompt: PROMPT.to_vec(), ..Start::default() };
    assert!(matches!(machine.on(Event::Started(start))[0], Effect::WarmSync(_)));
    let effects = machine.on(Event::Drafted(Drafted { ends_text: true, ..Drafted::default() }));
    let hang_up = Effect::HangUp { attempt: Attempt::new(1) };
    assert_eq!(effects, [hang_up, Effect::Finish(Ending::EndOfText)]);
}

#[test]
fn cancelling_while_bytes_are_tokenised_makes_no_call() {
    let mut machine = Machine::new(settings(Policy::Learned));
    machine.on(Event::Started(Start::default()));
    let bytes = b"a <call>4</call>".to_vec();
    let effects = machine.on(Event::Drafted(Drafted { id: 7, bytes, ..Drafted::default() }));
    assert_eq!(effects.last(), Some(&Effect::Tokenise { bytes: b"a".to_vec() }));
    assert_eq!(machine.on(Event::Cancelled), []);
    let effects = machine.on(Event::Tokenised { ids: vec![97] });
    assert_eq!(effects.last(), Some(&Effect::Tokenise { bytes: b" ".to_vec() }));
    let effects = machine.on(Event::Tokenised { ids: vec![32] });
    assert_eq!(effects, [Effect::Finish(Ending::Cancelled)]);
    assert_eq!(machine.transcript().cloud_ids(), [97, 32]);
}

#[test]
fn an_order_names_how_many_draft_ids_it_may_carry() {
    for (draft_tokens_max, allowed) in [(0, 0), (3, 3), (9, 4)] {
        let mut settings = settings(Policy::Learned);
        settings.draft_tokens_max = draft_tokens_max;
        let llm = &[Reply::Write(&[], FinishReason::Deadline)];
        let world = World::new(settings, &["<call>4</call>"], llm).run();
        assert_eq!(world.orders[0].draft_tokens_max, allowed);
    }
}

#[test]
fn promise_7_n_means_n_and_an_early_length_is_a_shortfall() {
    let mut machine = calling();
    accept(&mut machine, 2);
    token(&mut machine, 2);
    let reason = FinishReason::Length;
    let effects = machine.on(Event::CloudStopped { attempt: Attempt::new(1), reason });
    assert!(is_alone(&effects) && machine.account().degraded);
}

#[test]
fn a_limit_that_describe_tells_late_binds_the_open_call() {
    let mut machine = calling();
    machine.limit_call_tokens(1);
    accept(&mut machine, 2);
    token(&mut machine, 2);
    let reason = FinishReason::Length;
    let effects = machine.on(Event::CloudStopped { attempt: Attempt::new(1), reason });
    assert!(is_alone(&effects) && !machine.account().degraded);
    assert_eq!(machine.account().granted_tokens, 1);
}

#[test]
fn a_command_token_from_the_cloud_counts_as_a_cut() {
    let mut settings = settings(Policy::Every { period_tokens: 0, call_tokens: 1 });
    settings.command_tokens = vec![72];
    let mut machine = Machine::new(settings);
    let start = Start { cloud_prompt: PROMPT.to_vec(), ..Start::default() };
    machine.on(Event::Started(start));
    machine.on(Event::Drafted(Drafted { id: 7, bytes: b"a".to_vec(), ..Drafted::default() }));
    accept(&mut machine, 2);
    assert_eq!(order(&token(&mut machine, 2)).attempt, Attempt::new(2));
}
