//! Random events in any order, late and false ones included: every invariant holds after each,
//! views only grow, and whatever the reader was shown stays.

use proptest::prelude::*;
use relay::call::{Accepted, CloudToken, FinishReason};
use relay::effect::Effect;
use relay::event::{Drafted, Event, Start};
use relay::ids::{Attempt, PrefixHash};
use relay::invariants::broken;
use relay::machine::{Machine, MachineSettings, OnCloudEnd};
use relay::policy::Policy;
use relay::refusal::Refusal;

use crate::world::{CONTROL, END, PROMPT, settings};

/// Ids of the texts that are the command's tags.
const COMMAND_TOKENS: [u32; 2] = [1007, 1010];

/// What a driver might feed, relative to what the machine last asked for.
#[derive(Clone, Debug)]
enum Step {
    Draft { text: usize, entropy: f32, draw: f64 },
    End,
    Tokenised,
    Accepted { lie: bool },
    Token { gap: u32, stale: bool },
    Stopped(FinishReason),
    Refused(Refusal),
    Cut,
    LinkDown,
    TimeUp,
    Cancelled,
}

const TEXTS: &[&str] = &[
    "a",
    " ",
    "\t ",
    "b c",
    "<",
    "call",
    ">",
    "<call>",
    "5",
    " 12",
    "</call>",
    "</",
    "x <ca",
    "ll>3</call>",
    "<call>2</call>",
    " <call>7</call> y",
    "é",
    "\n",
    "",
    "<call>0</call>",
];

fn step() -> impl Strategy<Value = Step> {
    let draft = (0..TEXTS.len(), 0f32..2.0, 0f64..1.0)
        .prop_map(|(text, entropy, draw)| Step::Draft { text, entropy, draw });
    prop_oneof![
        30 => draft,
        8 => Just(Step::Tokenised),
        4 => any::<bool>().prop_map(|lie| Step::Accepted { lie }),
        12 => (0u32..8, any::<bool>()).prop_map(|(gap, stale)| Step::Token {
            gap: gap.saturating_sub(6), stale: stale && gap == 0,
        }),
        4 => finish_reason().prop_map(Step::Stopped),
        4 => refusal().prop_map(Step::Refused),
        2 => Just(Step::Cut),
        1 => Just(Step::LinkDown),
        1 => Just(Step::TimeUp),
        1 => Just(Step::End),
        1 => Just(Step::Cancelled),
    ]
}

fn finish_reason() -> impl Strategy<Value = FinishReason> {
    use FinishReason::{Cancelled, ContextFull, Deadline, Draining, EndOfText, Length, Superseded};
    prop::sample::select(vec![
        Length,
        EndOfText,
        Deadline,
        ContextFull,
        Cancelled,
        Superseded,
        Draining,
    ])
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let prefix = (0u32..20, any::<[u8; 16]>()).prop_map(|(have_tokens, hash)| {
        Refusal::PrefixUnknown { have_tokens, have_hash: PrefixHash::new(hash) }
    });
    prop_oneof![
        prefix,
        (0u64..200).prop_map(|highest| Refusal::StaleAttempt { highest }),
        prop::sample::select(vec![
            Refusal::VocabularyMismatch,
            Refusal::ModelMismatch,
            Refusal::Draining,
            Refusal::TooLate,
            Refusal::ContextFull { context_tokens: 5 },
            Refusal::Overloaded { retry_after_ms: 1, advised_tokens: 1 },
        ]),
    ]
}

fn any_settings() -> impl Strategy<Value = MachineSettings> {
    let policy = prop_oneof![
        4 => Just(Policy::Learned),
        1 => Just(Policy::Fixed { call_tokens: 2 }),
        1 => Just(Policy::Entropy { threshold_nats: 1.0, probability: 0.7, call_tokens: 3 }),
        1 => Just(Policy::Random { probability: 0.3, call_tokens: 3 }),
        1 => Just(Policy::Every { period_tokens: 2, call_tokens: 3 }),
        1 => Just(Policy::Never),
        1 => Just(Policy::Always),
    ];
    (policy, any::<bool>(), 0u32..4, prop::option::of(0u32..4), 1u32..60, 0u32..12).prop_map(
        |(policy, resume, cool_down_tokens, warm_sync_tokens, response_tokens_max, calls_max)| {
            let mut settings = settings(policy);
            settings.on_cloud_end = if resume { OnCloudEnd::Resume } else { OnCloudEnd::Finish };
            settings.cool_down_tokens = cool_down_tokens;
            settings.warm_sync_tokens = warm_sync_tokens;
            settings.budget.response_tokens_max = response_tokens_max;
            settings.budget.calls_max = calls_max;
            settings.command_tokens = COMMAND_TOKENS.to_vec();
            settings
        },
    )
}

/// Keeps what a driver would: the newest attempt, bytes to tokenise, and what was shown.
struct Driver {
    machine: Machine,
    newest: Attempt,
    to_tokenise: Vec<u8>,
    shown: String,
    edge: Vec<u32>,
    cloud: Vec<u32>,
    finished: bool,
}

impl Driver {
    fn new(settings: MachineSettings) -> Self {
        let mut driver = Self {
            machine: Machine::new(settings),
            newest: Attempt::default(),
            to_tokenise: Vec::new(),
            shown: String::new(),
            edge: Vec::new(),
            cloud: Vec::new(),
            finished: false,
        };
        let prompt = PROMPT.to_vec();
        driver.feed(&Event::Started(Start {
            edge_prompt: prompt.clone(),
            cloud_prompt: prompt,
            ..Start::default()
        }));
        driver
    }

    fn feed(&mut self, event: &Event) {
        let effects = self.machine.on(event.clone());
        assert!(!self.finished || effects.is_empty(), "{effects:?} after the end");
        for effect in effects {
            match effect {
                Effect::Call(order) | Effect::WarmSync(order) => {
                    assert!(order.attempt > self.newest, "attempt numbers rise");
                    assert!(order.base_tokens as usize + order.delta.len() == self.view().len());
                    self.newest = order.attempt;
                }
                Effect::Tokenise { bytes } => {
                    assert!(!bytes.is_empty());
                    self.to_tokenise = bytes;
                }
                Effect::Emit { text, .. } => self.shown += &text,
                Effect::Finish(_) => self.finished = true,
                _ => {}
            }
        }
        assert_eq!(broken(&self.machine), None, "after {event:?}");
        let transcript = self.machine.transcript();
        assert!(transcript.edge_ids().starts_with(&self.edge), "the edge view only grows");
        assert!(transcript.cloud_ids().starts_with(&self.cloud), "the cloud view only grows");
        assert_eq!(transcript.reader_text(), self.shown, "what is shown stays");
        let tag = |id: &u32| COMMAND_TOKENS.contains(id);
        assert!(!transcript.cloud_answer_ids().iter().any(tag), "a tag in the cloud view");
        self.edge = transcript.edge_ids().to_vec();
        self.cloud = transcript.cloud_ids().to_vec();
        assert_eq!(self.machine.is_finished(), self.finished);
    }

    fn view(&self) -> &[u32] {
        self.machine.transcript().cloud_ids()
    }

    fn event(&mut self, step: &Step) -> Event {
        let attempt = self.newest;
        let length = u32::try_from(self.view().len()).unwrap();
        match step.clone() {
            Step::Draft { text, entropy, draw } => {
                let bytes = TEXTS[text].as_bytes().to_vec();
                let id =
                    if bytes.is_empty() { CONTROL } else { 1000 + u32::try_from(text).unwrap() };
                Event::Drafted(Drafted { id, bytes, ends_text: false, entropy_nats: entropy, draw })
            }
            Step::End => Event::Drafted(Drafted { id: END, ends_text: true, ..Drafted::default() }),
            Step::Tokenised => Event::Tokenised {
                ids: std::mem::take(&mut self.to_tokenise).into_iter().map(u32::from).collect(),
            },
            Step::Accepted { lie } => Event::Accepted {
                attempt,
                accepted: Accepted {
                    length_tokens: length + u32::from(lie),
                    cached_tokens: 0,
                    prefilled_tokens: 0,
                },
            },
            Step::Token { gap, stale } => {
                let number = attempt.number().saturating_sub(u64::from(stale));
                let token = CloudToken { id: 2000, log_probability: 0.0, position: length + gap };
                Event::CloudToken { attempt: Attempt::new(number), token, bytes: b"L".to_vec() }
            }
            Step::Stopped(reason) => Event::CloudStopped { attempt, reason },
            Step::Refused(refusal) => Event::Refused { attempt, refusal },
            Step::Cut => Event::Cut { attempt },
            Step::LinkDown => Event::LinkDown { attempt },
            Step::TimeUp => Event::TimeUp { attempt },
            Step::Cancelled => Event::Cancelled,
        }
    }

    /// Ends the answer the way a driver may always end it.
    fn end(&mut self) {
        self.feed(&Event::Cancelled);
        while !self.finished {
            let event = self.event(&Step::Tokenised);
            self.feed(&event);
        }
    }

    /// The cloud view's text: each id of this file stands for a known text.
    fn cloud_text(&self) -> String {
        let bytes = self.view()[PROMPT.len()..].iter().flat_map(|id| match *id {
            byte @ 0..256 => vec![u8::try_from(byte).unwrap()],
            2000 => b"L".to_vec(),
            CONTROL => Vec::new(),
            text => TEXTS[text as usize - 1000].as_bytes().to_vec(),
        });
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_sequence_of_events_keeps_the_invariants(
        settings in any_settings(),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut driver = Driver::new(settings);
        for step in &steps {
            let event = driver.event(step);
            driver.feed(&event);
        }
        driver.end();
        prop_assert_eq!(driver.cloud_text(), driver.shown, "cloud and reader see the same text");
    }
}
