//! `relay-train grade`: the grader over lines of JSON, for other programs to use. Judges nothing
//! itself.

use std::io::{BufRead, Write};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::grader;
use crate::jsonl::JsonLines;

/// One line of input; other fields are passed over.
#[derive(Deserialize)]
struct Question {
    gold: String,
    response: String,
}

/// One line of output.
#[derive(Serialize)]
struct Judgement {
    correct: bool,
    extracted: Option<String>,
}

/// Grades each line of `input` and writes a line to `output`, in the same order. Stops at the
/// first line that is no {gold, response}, and says which one it is.
pub fn grade_lines(
    input: impl BufRead,
    source: &str,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let mut lines = JsonLines::<_, Question>::new(input, source);
    while let Some(question) = lines.read()? {
        let grader::Verdict { correct, extracted } =
            grader::grade(&question.gold, &question.response);
        let line = serde_json::to_string(&Judgement { correct, extracted })
            .with_context(|| format!("{}: the judgement is no JSON", lines.place()))?;
        writeln!(output, "{line}").context("cannot write the judgement")?;
    }
    output.flush().context("cannot write the judgements")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_graded() {
        let input = concat!(
            "{\"gold\":\"\\\\frac{1}{2}\",\"response\":\"so \\\\boxed{0.5}\"}\n",
            "{\"gold\":\"2\",\"response\":\"none\"}\n"
        );
        let mut output = Vec::new();
        grade_lines(input.as_bytes(), "in", &mut output).unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "{\"correct\":true,\"extracted\":\"0.5\"}\n{\"correct\":false,\"extracted\":null}\n"
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        let input = "{\"gold\":\"1\",\"response\":\"\"}\n{\"gold\":1,\"response\":\"\"}\n";
        let error = grade_lines(input.as_bytes(), "standard input", &mut Vec::new()).unwrap_err();
        let expected = "standard input:2: invalid type: integer `1`, expected a string (column 9)";
        assert_eq!(error.to_string(), expected);
    }
}
