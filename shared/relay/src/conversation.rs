//! Later turns: what of a conversation's views stays when the application asks again.
//!
//! A turn is rendered with a sentinel for each earlier answer, so it arrives as the texts around
//! the answers and the answers themselves, alternating. What equals the texts seen before keeps
//! its ids; from the first difference on everything is tokenised as prompt (PROTOCOL.md, *Later
//! turns*). Must not know how texts are rendered or tokenised.

use crate::event::Start;
use crate::ids::Attempt;
use crate::machine::Machine;

/// The views of a conversation between its turns, and what the cloud is known to hold of it.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    segments: Vec<Segment>,
    last_attempt: Attempt,
    acknowledged_tokens: u32,
    calls_over: bool,
}

/// What stands between two cuts. Texts and answers alternate through all segments together.
#[derive(Clone, Debug)]
enum Segment {
    /// Tokenised as one piece: texts, and answers that are not ours any more, in order.
    Prompt { texts: Vec<String>, ids: Vec<u32> },
    /// An answer as it was written.
    Answer { text: String, edge_ids: Vec<u32>, cloud_ids: Vec<u32> },
}

/// What to do for the next turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is to be tokenised, in order. Which text it is stays with whoever rendered it: texts
    /// that read alike may be tokenised differently.
    pub parts: Vec<Part>,
    kept_segments: usize,
    texts: Vec<String>,
}

/// One of the texts that a turn was rendered to, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A text around the answers; its control tokens are the template's own.
    Piece(usize),
    /// An answer of an earlier turn, all of it plain text.
    Answer(usize),
}

impl Conversation {
    /// A conversation that nothing was said in.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compares the next turn with what there is. `pieces` are the rendered texts around the
    /// earlier answers, one more than `answers`, which are these answers as the application has
    /// them. Both are as a reader sees them, nothing escaped.
    pub fn follow(&self, pieces: &[String], answers: &[String]) -> Plan {
        debug_assert_eq!(pieces.len(), answers.len() + 1);
        let mut rendered = alternate(pieces, answers).peekable();
        let mut kept_segments = 0;
        for segment in &self.segments {
            let mut ahead = rendered.clone();
            let same =
                segment.texts().all(|text| ahead.next().is_some_and(|(_, next)| next == text));
            // The last text is the new one: a segment that reaches to it is not what was before.
            if !same || ahead.peek().is_none() {
                break;
            }
            rendered = ahead;
            kept_segments += 1;
        }
        let (parts, texts) = rendered.map(|(part, text)| (part, text.to_owned())).unzip();
        Plan { parts, kept_segments, texts }
    }

    /// Begins the turn with the ids of the plan's parts. The acknowledged length falls to the cut.
    pub fn begin(&mut self, plan: Plan, ids: Vec<u32>) -> Start {
        let cut_segments = self.segments.split_off(plan.kept_segments.min(self.segments.len()));
        let still_same = match cut_segments.first() {
            Some(Segment::Prompt { ids: old, .. }) => common_prefix(old, &ids),
            Some(Segment::Answer { .. }) | None => 0,
        };
        self.segments.push(Segment::Prompt { texts: plan.texts, ids });
        let [edge_prompt, cloud_prompt] = self.views();
        let new_ids = self.segments.last().map_or(0, |segment| segment.cloud_ids().len());
        let cut = cloud_prompt.len() - new_ids + still_same;
        let cut = u32::try_from(cut).unwrap_or(u32::MAX);
        self.acknowledged_tokens = self.acknowledged_tokens.min(cut);
        Start {
            edge_prompt,
            cloud_prompt,
            calls_over: self.calls_over,
            last_attempt: self.last_attempt,
            acknowledged_tokens: self.acknowledged_tokens,
        }
    }

    /// Keeps what the turn's machine wrote and learnt.
    pub fn finish(&mut self, machine: &Machine) {
        let transcript = machine.transcript();
        self.segments.push(Segment::Answer {
            text: transcript.reader_text(),
            edge_ids: transcript.edge_answer_ids().to_vec(),
            cloud_ids: transcript.cloud_answer_ids().to_vec(),
        });
        self.last_attempt = machine.last_attempt();
        self.acknowledged_tokens = machine.acknowledged_tokens();
        self.calls_over = machine.calls_over();
    }

    fn views(&self) -> [Vec<u32>; 2] {
        let edge = self.segments.iter().flat_map(|segment| segment.edge_ids().iter().copied());
        let cloud = self.segments.iter().flat_map(|segment| segment.cloud_ids().iter().copied());
        [edge.collect(), cloud.collect()]
    }
}

impl Segment {
    fn texts(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::Prompt { texts, .. } => texts.as_slice(),
            Self::Answer { text, .. } => std::slice::from_ref(text),
        }
        .iter()
        .map(String::as_str)
    }

    fn edge_ids(&self) -> &[u32] {
        match self {
            Self::Prompt { ids, .. } => ids,
            Self::Answer { edge_ids, .. } => edge_ids,
        }
    }

    fn cloud_ids(&self) -> &[u32] {
        match self {
            Self::Prompt { ids, .. } => ids,
            Self::Answer { cloud_ids, .. } => cloud_ids,
        }
    }
}

fn alternate<'a>(
    pieces: &'a [String],
    answers: &'a [String],
) -> impl Iterator<Item = (Part, &'a str)> + Clone {
    pieces
        .iter()
        .enumerate()
        .flat_map(|(index, piece)| {
            let answer = answers.get(index).map(|answer| (Part::Answer(index), answer));
            [Some((Part::Piece(index), piece)), answer]
        })
        .flatten()
        .map(|(part, text)| (part, text.as_str()))
}

fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Two finished turns: prompts "P0" and "P1", answers "A0" (with a command) and "A1".
    fn two_turns() -> Conversation {
        let answer = |text: &str, edge_ids: &[u32], cloud_ids: &[u32]| Segment::Answer {
            text: text.to_owned(),
            edge_ids: edge_ids.to_vec(),
            cloud_ids: cloud_ids.to_vec(),
        };
        let prompt = |text: &str, ids: &[u32]| Segment::Prompt {
            texts: strings(&[text]),
            ids: ids.to_vec(),
        };
        Conversation {
            segments: vec![
                prompt("P0", &[1, 2]),
                answer("A0", &[3, 90, 4], &[3, 4]),
                prompt("P1", &[5, 6]),
                answer("A1", &[7], &[7]),
            ],
            last_attempt: Attempt::new(9),
            acknowledged_tokens: 7,
            calls_over: false,
        }
    }

    fn text(plan: &Plan, pieces: &[&str], answers: &[&str]) -> String {
        let texts = plan.parts.iter().map(|part| match *part {
            Part::Piece(index) => pieces[index],
            Part::Answer(index) => answers[index],
        });
        texts.collect()
    }

    fn check(pieces: &[&str], answers: &[&str], ids: &[u32], new: &str, start: (&[u32], u32)) {
        let mut conversation = two_turns();
        let plan = conversation.follow(&strings(pieces), &strings(answers));
        assert_eq!(text(&plan, pieces, answers), new);
        let begun = conversation.begin(plan, ids.to_vec());
        assert_eq!((begun.edge_prompt.as_slice(), begun.acknowledged_tokens), start, "{pieces:?}");
        assert_eq!(begun.last_attempt, Attempt::new(9));
    }

    #[test]
    fn what_is_the_same_keeps_its_ids() {
        check(&["P0", "P1", "P2"], &["A0", "A1"], &[8], "P2", (&[1, 2, 3, 90, 4, 5, 6, 7, 8], 7));
    }

    #[test]
    fn a_changed_answer_cuts_at_its_start() {
        check(
            &["P0", "P1", "P2"],
            &["A0", "B1"],
            &[7, 8],
            "B1P2",
            (&[1, 2, 3, 90, 4, 5, 6, 7, 8], 6),
        );
        check(&["P0", "P1"], &["B0"], &[8], "B0P1", (&[1, 2, 8], 2));
    }

    #[test]
    fn a_changed_prompt_cuts_at_the_first_differing_id() {
        check(&["P0", "Q1", "P2"], &["A0", "A1"], &[5, 9], "Q1A1P2", (&[1, 2, 3, 90, 4, 5, 9], 5));
        check(&["Q0"], &[], &[1, 9], "Q0", (&[1, 9], 1));
    }

    #[test]
    fn the_same_question_again_is_a_new_answer() {
        check(&["P0", "P1"], &["A0"], &[5, 6], "P1", (&[1, 2, 3, 90, 4, 5, 6], 6));
    }

    #[test]
    fn a_cut_conversation_can_be_followed_again() {
        let mut conversation = two_turns();
        let plan = conversation.follow(&strings(&["P0", "P1"]), &strings(&["B0"]));
        conversation.begin(plan, vec![8]);
        conversation.segments.push(Segment::Answer {
            text: "C".to_owned(),
            edge_ids: vec![9],
            cloud_ids: vec![9],
        });
        let plan = conversation.follow(&strings(&["P0", "P1", "P2"]), &strings(&["B0", "C"]));
        assert_eq!(plan.parts, [Part::Piece(2)]);
        assert_eq!(conversation.begin(plan, vec![4]).cloud_prompt, [1, 2, 8, 9, 4]);
    }
}
