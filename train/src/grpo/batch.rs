//! From answers to what is learned of them: each is graded, each group is paid, and every token
//! knows whether the small model chose it. Knows no model and no learner.

use anyhow::{Context, ensure};
use relay::account::Account;
use relay::command::DIGITS_MAX;
use relay::effect::Author;

use super::settings::GrpoSettings;
use crate::advantage::advantages;
use crate::grader;
use crate::reward::{Sample, Scenario, rewards};
use crate::rollout::Answer;
use crate::trainable::Sequence;

/// One answer as the learner sees it.
#[derive(Debug)]
pub(super) struct Lesson {
    /// Prompt, answer with its commands and the teacher's tokens, end: all of it is attended to.
    pub(super) sequence: Sequence,
    /// Of each scored token, whether the small model chose it. Only those are learned from.
    pub(super) is_policy: Vec<bool>,
    /// Of each scored token, whether it is of the length that a command asks for. None are where
    /// the tags are no tokens of their own.
    pub(super) is_length: Vec<bool>,
    /// How much better the answer was than its group.
    pub(super) advantage: f64,
}

/// All answers of a step, in the order of the groups.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) lessons: Vec<Lesson>,
    /// Answers of each group that there is something to learn from.
    pub(super) group_lessons: Vec<usize>,
    pub(super) figures: Figures,
}

/// What the answers of a step were like.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) answers: usize,
    pub(super) correct: usize,
    pub(super) called: usize,
    pub(super) called_correct: usize,
    pub(super) reward_sum: f64,
    /// Tokens of all answers, commands included.
    pub(super) tokens: u64,
    pub(super) llm_tokens: u64,
    pub(super) calls: u64,
    pub(super) requested_tokens: u64,
    pub(super) malformed: u64,
    pub(super) groups: usize,
    /// Groups whose answers all earned the same: nothing can be learned from them.
    pub(super) equal_groups: usize,
    /// Groups in which no answer did without a call: nothing pulls calling back.
    pub(super) all_called_groups: usize,
    pub(super) student_solvable: usize,
    pub(super) teacher_dependent: usize,
    pub(super) teacher_unsolvable: usize,
}

impl Batch {
    /// Grades, pays and masks answers: `group_size` in a row to each problem, whose right answer is
    /// in `golds`. `tags` are the ids that open and close a command.
    pub(super) fn new(
        answers: &[Answer],
        golds: &[String],
        tags: [Option<u32>; 2],
        settings: &GrpoSettings,
    ) -> anyhow::Result<Self> {
        // One answer too few, and every later group would be judged by its neighbour's gold.
        ensure!(
            answers.len() == golds.len() * settings.group_size,
            "{} answers to {} problems, each asked {} times: this is a defect",
            answers.len(),
            golds.len(),
            settings.group_size
        );
        let mut batch =
            Self { lessons: Vec::new(), group_lessons: Vec::new(), figures: Figures::default() };
        for (group, gold) in answers.chunks(settings.group_size).zip(golds) {
            batch
                .add_group(group, gold, tags, settings)
                .with_context(|| format!("answer {gold}"))?;
        }
        Ok(batch)
    }

    fn add_group(
        &mut self,
        group: &[Answer],
        gold: &str,
        tags: [Option<u32>; 2],
        settings: &GrpoSettings,
    ) -> anyhow::Result<()> {
        let samples: Vec<Sample> = group.iter().map(|answer| sample(answer, gold)).collect();
        let rewards = rewards(settings.reward.reward(), &samples)?;
        let advantages = advantages(&rewards)?;
        self.figures.add_group(&samples, &rewards, &advantages);
        let before = self.lessons.len();
        for (answer, advantage) in group.iter().zip(advantages) {
            self.figures.add_account(&answer.account);
            self.lessons.extend(Lesson::of(answer, tags, advantage));
        }
        self.group_lessons.push(self.lessons.len() - before);
        Ok(())
    }
}

impl Lesson {
    /// None for an answer without any token: nothing was chosen.
    fn of(answer: &Answer, tags: [Option<u32>; 2], advantage: f64) -> Option<Self> {
        let scored = || answer.tokens.iter().chain(&answer.end);
        let is_policy: Vec<bool> = scored().map(|token| token.author == Author::Slm).collect();
        if is_policy.is_empty() {
            return None;
        }
        // Tokens that may yet be of the length; a broken command does not go on for ever.
        let mut left = 0_usize;
        let is_length = scored().map(|token| {
            let is_tag = tags.contains(&Some(token.id));
            let is_length = left > 0 && !is_tag && token.author == Author::Slm;
            left = match is_tag {
                true if tags[0] == Some(token.id) => DIGITS_MAX,
                false if is_length => left - 1,
                _ => 0,
            };
            is_length
        });
        let is_length = is_length.collect();
        let mut ids = answer.prompt.clone();
        let scored_from = ids.len();
        ids.extend(scored().map(|token| token.id));
        Some(Self { sequence: Sequence { ids, scored_from }, is_policy, is_length, advantage })
    }
}

fn sample(answer: &Answer, gold: &str) -> Sample {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let by_llm = answer.tokens.iter().filter(|token| token.author == Author::Llm).count();
    Sample {
        is_correct: grader::grade(gold, &answer.text).correct,
        llm_tokens: count(by_llm),
        response_tokens: count(answer.tokens.len()),
    }
}

impl Figures {
    fn add_group(&mut self, samples: &[Sample], rewards: &[f64], advantages: &[f64]) {
        let called = samples.iter().filter(|sample| sample.has_called()).count();
        self.groups += 1;
        self.answers += samples.len();
        self.correct += samples.iter().filter(|sample| sample.is_correct).count();
        self.called += called;
        let is_right_call = |sample: &&Sample| sample.has_called() && sample.is_correct;
        self.called_correct += samples.iter().filter(is_right_call).count();
        self.reward_sum += rewards.iter().sum::<f64>();
        self.tokens += samples.iter().map(|sample| u64::from(sample.response_tokens)).sum::<u64>();
        self.llm_tokens += samples.iter().map(|sample| u64::from(sample.llm_tokens)).sum::<u64>();
        self.equal_groups += usize::from(advantages.iter().all(|advantage| *advantage == 0.0));
        self.all_called_groups += usize::from(called == samples.len());
        match Scenario::of(samples) {
            Scenario::StudentSolvable => self.student_solvable += 1,
            Scenario::TeacherDependent => self.teacher_dependent += 1,
            Scenario::TeacherUnsolvable => self.teacher_unsolvable += 1,
        }
    }

    fn add_account(&mut self, account: &Account) {
        self.calls += u64::from(account.calls);
        self.requested_tokens += account.requested_tokens;
        self.malformed += u64::from(account.malformed_commands + account.unclosed_commands);
    }
}

#[cfg(test)]
mod tests {
    use relay::effect::Ending;

    use super::*;
    use crate::rollout::Token;

    const NO_TAGS: [Option<u32>; 2] = [None, None];

    fn token(id: u32, author: Author) -> Token {
        Token { id, author, log_probability: -1.0 }
    }

    /// An answer of `slm` tokens, then `llm`, then one more of the student's and an end.
    fn answer(slm: u32, llm: u32, text: &str) -> Answer {
        let mut tokens: Vec<Token> = (0..slm).map(|id| token(id, Author::Slm)).collect();
        tokens.extend((0..llm).map(|id| token(100 + id, Author::Llm)));
        tokens.push(token(9, Author::Slm));
        Answer {
            prompt: vec![1, 2, 3],
            tokens,
            end: Some(token(7, Author::Slm)),
            text: text.to_owned(),
            legs: Vec::new(),
            account: Account::default(),
            ending: Ending::EndOfText,
        }
    }

    fn settings() -> GrpoSettings {
        let text =
            "seed = 1\nsteps = 1\ncheckpoint_steps = 1\ngroups = 2\ngroup_size = 2\nupdates = 1";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn both_masks_are_as_worked_out_by_hand() {
        let answers = [
            answer(2, 3, "\\boxed{5}"),
            answer(4, 0, "\\boxed{6}"),
            answer(1, 0, "\\boxed{8}"),
            answer(1, 0, "\\boxed{8}"),
        ];
        let batch = Batch::new(&answers, &["5".into(), "8".into()], NO_TAGS, &settings()).unwrap();
        let first = &batch.lessons[0];
        // Attended to: prompt, two own, three of the teacher's, one own, the end.
        assert_eq!(first.sequence.ids, [1, 2, 3, 0, 1, 100, 101, 102, 9, 7]);
        assert_eq!(first.sequence.scored_from, 3);
        // Learned from: those the student chose.
        assert_eq!(first.is_policy, [true, true, false, false, false, true, true]);
        // Group 1: right with 3 of 6 tokens by the teacher, wrong alone: teacher-dependent, 0.5 and -1.
        let half = std::f64::consts::FRAC_1_SQRT_2;
        assert!((first.advantage - half).abs() < 1e-5, "{}", first.advantage);
        assert!((batch.lessons[1].advantage + half).abs() < 1e-5);
        // Group 2: both right alone: equal, so nothing to learn.
        assert!(batch.lessons[2..].iter().all(|lesson| lesson.advantage == 0.0));
        let Figures { correct, called, equal_groups, all_called_groups, .. } = batch.figures;
        assert_eq!((correct, called, equal_groups, all_called_groups), (3, 1, 1, 0));
        let Figures { student_solvable, teacher_dependent, llm_tokens, tokens, .. } = batch.figures;
        assert_eq!((student_solvable, teacher_dependent, llm_tokens, tokens), (1, 1, 3, 15));
        assert!((batch.figures.reward_sum - 2.5).abs() < 1e-9);
        assert_eq!(batch.group_lessons, [2, 2]);
    }

    #[test]
    fn what_stands_between_the_tags_is_a_length() {
        // 50 opens, 51 closes; the second command is broken off.
        let ids = [1, 50, 3, 4, 51, 5, 50, 3, 50, 6];
        let tokens = ids.map(|id| token(id, Author::Slm)).to_vec();
        let answer = Answer { tokens, ..answer(0, 0, "") };
        let lesson = Lesson::of(&answer, [Some(50), Some(51)], 0.0).unwrap();
        let lengths = (0..lesson.is_length.len()).filter(|at| lesson.is_length[*at]);
        // The end, 7, comes after an open tag.
        assert_eq!(lengths.collect::<Vec<_>>(), [2, 3, 7, 9, 10]);
        let lesson = Lesson::of(&answer, NO_TAGS, 0.0).unwrap();
        assert!(!lesson.is_length.contains(&true));
    }

    #[test]
    fn groups_do_not_slip() {
        let answers: Vec<Answer> = (0..4).map(|_| answer(1, 0, "\\boxed{5}")).collect();
        let golds = ["5".to_owned(), "8".to_owned()];
        for count in [3, 2] {
            let batch = Batch::new(&answers[..count], &golds, NO_TAGS, &settings());
            let error = batch.unwrap_err().to_string();
            assert!(error.contains(&format!("{count} answers to 2 problems")), "{error}");
        }
    }

    #[test]
    fn an_answer_of_nothing_is_paid_and_left_out() {
        let empty = Answer { tokens: Vec::new(), end: None, ..answer(0, 0, "") };
        let ended = Answer { tokens: Vec::new(), ..answer(0, 0, "") };
        let mut settings = settings();
        settings.groups = 1;
        let batch = Batch::new(&[empty, ended], &["5".into()], NO_TAGS, &settings).unwrap();
        assert_eq!(batch.figures.answers, 2);
        assert_eq!(batch.lessons.len(), 1);
        assert_eq!(batch.lessons[0].is_policy, [true]);
        assert_eq!(batch.group_lessons, [1]);
    }
}
