//! When the other policies call, and that budget, cool-down and mask bind them all.

use relay::call::FinishReason::{EndOfText, Length};
use relay::effect::Ending;
use relay::event::Event;
use relay::machine::OnCloudEnd;
use relay::policy::Policy;

use crate::world::{Reply, World, settings};

const ENTROPY: Policy = Policy::Entropy { threshold_nats: 1.0, probability: 1.0, call_tokens: 2 };
const DOWN: Reply = Reply::Event(|attempt| Event::LinkDown { attempt });

fn unsure_at(index: usize) -> impl Fn(usize, &mut relay::event::Drafted) {
    move |at, drafted| drafted.entropy_nats = if at == index { 1.0 } else { 0.5 }
}

#[test]
fn entropy_sets_the_draft_aside_and_drops_it_once_a_token_comes() {
    let llm = &[Reply::Write(&["x", "y"], Length)];
    let world =
        World::new(settings(ENTROPY), &["a", "b", "c"], llm).with_drafts(unsure_at(1)).run();
    assert_eq!((world.reader(), world.dropped_drafts), ("axyc".into(), 1));
    assert_eq!(world.cloud(), "axyc");
    assert_eq!(world.vocabulary.decode(&world.orders[0].delta), "a");
}

#[test]
fn without_a_token_the_draft_is_taken_without_deciding_again() {
    let world =
        World::new(settings(ENTROPY), &["a", "b", "c"], &[DOWN]).with_drafts(unsure_at(1)).run();
    assert_eq!((world.reader(), world.dropped_drafts), ("abc".into(), 0));
    assert_eq!(world.orders.len(), 1);
}

#[test]
fn an_end_of_text_may_be_overruled_by_a_call() {
    let every = Policy::Every { period_tokens: 1, call_tokens: 1 };
    let llm = &[Reply::Write(&["x"], Length), Reply::Write(&[], EndOfText)];
    // "a" is taken, the end of text is set aside and dropped; after "x" the SLM writes on.
    let world = World::new(settings(every), &["a"], llm).run();
    assert_eq!((world.reader(), world.dropped_drafts), ("ax".into(), 1));
    assert_eq!(world.ending, Some(Ending::EndOfText));
}

#[test]
fn every_counts_from_the_last_leg() {
    let every = Policy::Every { period_tokens: 2, call_tokens: 1 };
    let llm = &[Reply::Write(&["x"], Length), Reply::Write(&["y"], Length)];
    let world = World::new(settings(every), &["a", "b", "-", "c", "d", "-"], llm).run();
    assert_eq!(world.reader(), "abxcdy");
}

#[test]
fn a_fixed_number_stands_in_for_the_written_one() {
    let fixed = Policy::Fixed { call_tokens: 2 };
    // Three asked for, one asked for, none: the last one is no call, and stays text.
    let slm = &["a", "<call>3</call>", "b", "<call>1</call>", "c", "<call>0</call>"];
    let llm = &[Reply::Write(&["x", "y"], Length), Reply::Write(&["z", "w"], Length)];
    let world = World::new(settings(fixed), slm, llm).run();
    let asked: Vec<u32> = world.orders.iter().map(|order| order.max_tokens).collect();
    assert_eq!((asked, world.reader()), (vec![2, 2], "axybzwc".into()));
    let account = world.machine.account();
    assert_eq!((account.requested_tokens, account.zero_commands), (4, 1));
    assert!(world.bans.iter().all(Option::is_none), "commands are free");

    // The budget binds it, too.
    let mut bound = settings(fixed);
    bound.budget.call_tokens_max = 1;
    let world = World::new(bound, &["<call>9</call>"], &[Reply::Write(&["x"], Length)]).run();
    assert_eq!((world.orders[0].max_tokens, world.reader()), (1, "x".into()));
}

#[test]
fn random_fires_below_its_probability() {
    let random = Policy::Random { probability: 0.5, call_tokens: 1 };
    let llm = &[Reply::Write(&["x"], Length)];
    let world = World::new(settings(random), &["a", "b"], llm)
        .with_drafts(|index, drafted| drafted.draw = if index == 1 { 0.49 } else { 0.5 })
        .run();
    assert_eq!(world.reader(), "ax");
}

#[test]
fn a_coin_thins_the_calls_of_entropy() {
    let thinned = Policy::Entropy { threshold_nats: 1.0, probability: 0.5, call_tokens: 1 };
    let llm = &[Reply::Write(&["x"], Length)];
    let world = World::new(settings(thinned), &["a", "b", "c"], llm)
        .with_drafts(|index, drafted| {
            let unlike = [(1.0, 0.5), (0.9, 0.4), (1.0, 0.4)];
            (drafted.entropy_nats, drafted.draw) = unlike.get(index).copied().unwrap_or_default();
        })
        .run();
    // Unsure without the coin, the coin without being unsure, both.
    assert_eq!((world.reader(), world.orders.len()), ("abx".into(), 1));
}

#[test]
fn never_calls_never_and_masks_the_command() {
    let world = World::new(settings(Policy::Never), &["<call>5</call>", "<ca", "t"], &[]).run();
    assert_eq!((world.reader(), world.orders.len()), ("<call>5</call><cat".into(), 0));
    let held: Vec<_> = world.bans.iter().map(|ban| ban.clone().unwrap()).collect();
    assert_eq!(held, [b"".to_vec(), b"".to_vec(), b"<ca".to_vec(), b"".to_vec()]);
}

#[test]
fn always_is_the_llm_alone_until_it_ends() {
    let mut settings = settings(Policy::Always);
    settings.budget.call_tokens_max = 2;
    settings.on_cloud_end = OnCloudEnd::Resume;
    let llm = &[Reply::Write(&["x", "y"], Length), Reply::Write(&["z"], EndOfText)];
    let world = World::new(settings, &["never"], llm).run();
    assert_eq!((world.reader(), world.bans.len()), ("xyz".into(), 0));
    assert_eq!(world.ending, Some(Ending::CloudEndOfText));
    assert_eq!(world.machine.account().call_ratio(), 1.0);
}

#[test]
fn after_a_failure_the_slm_cools_down() {
    let mut settings = settings(Policy::Learned);
    settings.cool_down_tokens = 2;
    let world = World::new(settings, &["<call>1</call>", "a", "b", "c"], &[DOWN]).run();
    let banned: Vec<bool> = world.bans.iter().map(Option::is_some).collect();
    // Banned before "a" and "b"; from the third draft after the failure on it is free again.
    assert_eq!(banned, [false, true, true, false, false]);
    assert!(world.machine.account().degraded);

    let mut settings = crate::world::settings(Policy::Entropy {
        threshold_nats: 0.0,
        probability: 1.0,
        call_tokens: 1,
    });
    settings.cool_down_tokens = 2;
    let llm = &[DOWN, Reply::Write(&["x"], Length), DOWN];
    let world = World::new(settings, &["a", "b", "-"], llm).run();
    // The call before "a" fails: "a" and "b" are taken, then the next call is made.
    assert_eq!(world.reader(), "abx");
}

#[test]
fn warm_syncs_ship_settled_ids_ahead() {
    let mut settings = settings(Policy::Learned);
    settings.warm_sync_tokens = Some(2);
    let ok = Reply::Write(&[], Length);
    let llm = &[ok.clone(), ok, Reply::Write(&["x"], Length)];
    let world = World::new(settings, &["a", "b", "<call>1</call>"], llm).run();
    let shipped: Vec<(u32, usize)> =
        world.orders.iter().map(|order| (order.max_tokens, order.delta.len())).collect();
    // The prompt at the start, then "a" and "b"; the call itself has nothing left to ship.
    assert_eq!(shipped, [(0, 2), (0, 2), (1, 0)]);
    assert_eq!(world.machine.account().calls, 1);
}

#[test]
fn what_stands_behind_a_command_is_no_beginning_of_the_next() {
    let mut settings = settings(Policy::Learned);
    settings.cool_down_tokens = 9;
    let world = World::new(settings, &["<call>1</call><", "ca"], &[DOWN]).run();
    assert_eq!(world.bans[1], Some(Vec::new()));
}
