//! Problems from files: the six benchmark sets, GSM8K's training part, and the generator's own.
//! The path is the user's; nothing is downloaded. Every bad line is named: `file:line: what`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::grader;
use crate::jsonl::JsonLines;

/// What is said after a question of a real set, so that an answer can be found.
pub const INSTRUCTION: &str =
    "Please reason step by step, and put your final answer within \\boxed{}.";

/// A set of problems with a format of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Set {
    /// {question, answer}, the answer behind `####`; training and test part alike.
    Gsm8k,
    /// {problem, answer}.
    Math500,
    /// {problem, solution}, the answer in the solution's last box.
    Minerva,
    /// `{question, final_answer: [answer]}`.
    Olympiadbench,
    /// {problem, answer}, the answer text or a number.
    Aime24,
    /// The same.
    Aime25,
    /// What `relay-train data generate` writes.
    Generated,
}

impl Set {
    /// What follows each question: what is given, else the usual words. The small world's problems
    /// are asked bare, as its models learned them.
    pub fn instruction(self, given: Option<&str>) -> &str {
        given.unwrap_or(match self {
            Self::Generated => "",
            _ => INSTRUCTION,
        })
    }
}

/// A question with its gold answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// What is right, for the grader.
    pub gold: String,
}

impl Question {
    /// What a model reads, the same in every stage and in evaluation: the question, and the
    /// instruction on a line of its own.
    pub fn asked(&self, instruction: &str) -> String {
        format!("{}\n{instruction}", self.text).trim_end().to_owned()
    }

    /// A hash of what is asked and what is right.
    pub fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.text.as_bytes());
        hasher.update(b"\n");
        hasher.update(self.gold.as_bytes());
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// All fields that any of the sets uses.
#[derive(Deserialize)]
struct Row {
    problem: Option<String>,
    question: Option<String>,
    answer: Option<Value>,
    solution: Option<Value>,
    final_answer: Option<Vec<String>>,
}

/// Reads a whole set. A file without a problem is a fault, too.
pub fn load(set: Set, path: &Path) -> anyhow::Result<Vec<Question>> {
    let shown = path.display();
    let file = File::open(path)
        .with_context(|| format!("{shown}: cannot be opened: give the path of the set's JSONL"))?;
    let mut lines = JsonLines::<_, Row>::new(BufReader::new(file), shown.to_string());
    let mut questions = Vec::new();
    while let Some(row) = lines.read()? {
        questions.push(read_row(set, row).with_context(|| lines.place())?);
    }
    if questions.is_empty() {
        bail!("{shown}: holds no problem");
    }
    Ok(questions)
}

fn read_row(set: Set, row: Row) -> anyhow::Result<Question> {
    let (asked, field) = match set {
        Set::Gsm8k | Set::Olympiadbench | Set::Generated => (row.question, "question"),
        Set::Math500 | Set::Minerva | Set::Aime24 | Set::Aime25 => (row.problem, "problem"),
    };
    let text = asked.filter(|text| !text.trim().is_empty());
    let text = text.with_context(|| format!("`{field}` is missing or empty"))?;
    let gold = match set {
        Set::Gsm8k => {
            let worked = as_text(row.answer).context("`answer` is missing")?;
            let marked = worked.rsplit_once("####");
            marked.context("`answer` has no ####: is this GSM8K?")?.1.trim().to_owned()
        }
        Set::Minerva => {
            let worked = as_text(row.solution).context("`solution` is missing")?;
            let boxed = grader::extract(&worked).context("`solution` has no box")?;
            boxed.to_owned()
        }
        Set::Olympiadbench => {
            let answers = row.final_answer.context("`final_answer` is missing")?;
            answers.into_iter().next().context("`final_answer` is empty")?
        }
        Set::Math500 | Set::Aime24 | Set::Aime25 | Set::Generated => {
            as_text(row.answer).context("`answer` is missing, or neither text nor a number")?
        }
    };
    if gold.trim().is_empty() {
        bail!("the gold answer is empty");
    }
    Ok(Question { text, gold: gold.trim().to_owned() })
}

fn as_text(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(set: Set, text: &str) -> Result<Vec<Question>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("set.jsonl");
        std::fs::write(&path, text).unwrap();
        load(set, &path)
            .map_err(|error| format!("{error:#}").replace(&path.display().to_string(), "set.jsonl"))
    }

    #[test]
    fn each_format_is_read() {
        for (set, line) in [
            (Set::Gsm8k, r#"{"question":"q","answer":"so <<1+1=2>>2\n#### 2"}"#),
            (Set::Math500, r#"{"problem":"q","answer":"2","solution":"s"}"#),
            (Set::Minerva, r#"{"problem":"q","solution":"$\\boxed{2} cm$"}"#),
            (Set::Olympiadbench, r#"{"question":"q","final_answer":["2","3"],"solution":["s"]}"#),
            (Set::Aime24, r#"{"problem":"q","answer":"2"}"#),
            (Set::Aime25, r#"{"problem":"q","answer":2,"question":"x"}"#),
            (Set::Generated, r#"{"question":"q","answer":"2","solution":"s"}"#),
        ] {
            let expected = Question { text: "q".into(), gold: "2".into() };
            assert_eq!(load_text(set, line), Ok(vec![expected]), "{set:?}");
        }
    }

    #[test]
    fn real_sets_are_asked_with_the_usual_words_and_the_small_world_bare() {
        let question = Question { text: "q".into(), gold: "2".into() };
        for (set, given, expected) in [
            (Set::Gsm8k, None, format!("q\n{INSTRUCTION}")),
            (Set::Gsm8k, Some("Box it."), "q\nBox it.".to_owned()),
            (Set::Gsm8k, Some(""), "q".to_owned()),
            (Set::Generated, None, "q".to_owned()),
        ] {
            assert_eq!(question.asked(set.instruction(given)), expected, "{set:?} {given:?}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        for (set, text, expected) in [
            (
                Set::Gsm8k,
                "{\"question\":\"q\",\"answer\":\"2\"}",
                "set.jsonl:1: `answer` has no ####: is this GSM8K?",
            ),
            (
                Set::Gsm8k,
                "\n{\"answer\":\"#### 2\"}",
                "set.jsonl:2: `question` is missing or empty",
            ),
            (
                Set::Minerva,
                "{\"problem\":\"q\",\"solution\":\"2\"}",
                "set.jsonl:1: `solution` has no box",
            ),
            (
                Set::Olympiadbench,
                "{\"question\":\"q\",\"final_answer\":[]}",
                "set.jsonl:1: `final_answer` is empty",
            ),
            (
                Set::Math500,
                "{\"problem\":\"q\",\"answer\":[]}",
                "set.jsonl:1: `answer` is missing, or neither text nor a number",
            ),
            (
                Set::Math500,
                "{\"problem\":\"q\",\"answer\":\" \"}",
                "set.jsonl:1: the gold answer is empty",
            ),
            (Set::Math500, "", "set.jsonl: holds no problem"),
        ] {
            assert_eq!(load_text(set, text), Err(expected.to_owned()), "{set:?}");
        }
        let missing = load(Set::Gsm8k, Path::new("no/such.jsonl")).unwrap_err();
        assert!(missing.to_string().starts_with("no/such.jsonl: cannot be opened"));
    }
}
