//! Where in a response the answer stands. Knows text only: what the answer means is not its
//! business. Every search is one pass, whatever the response is.

/// Commands that put their argument in a box.
const BOXES: [&str; 3] = ["\\boxed", "\\fbox", "\\framebox"];
/// How GSM8K marks its answers.
const HASHES: &str = "####";
/// Words after which an answer stands that is in no box.
const PHRASES: [&str; 3] = ["answer is", "answer:", "answer ="];
/// How far behind such words an answer goes: to the end of the line, and no further than this.
const PHRASE_BYTES_MAX: usize = 256;

/// The answer of a response: what the last complete box holds; without any box what follows the
/// last `####`, or the last "answer is" or "answer:". A box that is not closed (the response was
/// cut off) is none. `None` where nothing marks an answer: a number somewhere in the text is not
/// taken for one.
pub fn extract(response: &str) -> Option<&str> {
    marked(response).or_else(|| after_phrase(response))
}

/// What a box or `####` marks.
pub(super) fn marked(text: &str) -> Option<&str> {
    last_box(text).or_else(|| after_hashes(text))
}

fn last_box(text: &str) -> Option<&str> {
    let mut open_groups: Vec<(usize, bool)> = Vec::new();
    let mut last = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            // What follows a backslash opens and closes nothing, but may be the name of a box.
            b'\\' => {
                let (unbraced, skipped) = box_at(&text[at..]);
                if let Some(argument) = unbraced {
                    last = Some(argument);
                }
                bytes.nth(skipped.saturating_sub(2));
            }
            b'{' => open_groups.push((at + 1, is_box_before(&text[..at]))),
            b'}' => {
                if let Some((start, true)) = open_groups.pop() {
                    last = Some(text[start..at].trim());
                }
            }
            _ => {}
        }
    }
    last
}

/// Is this a box without braces, as in `\boxed 5`? Gives its argument, and how many bytes of the
/// command to pass over (the backslash and at least one more).
fn box_at(text: &str) -> (Option<&str>, usize) {
    for name in BOXES {
        if let Some(rest) = text.strip_prefix(name) {
            let argument = rest.strip_prefix(' ').and_then(|rest| {
                let end = rest.find(|c: char| c.is_whitespace() || c == '$');
                let word = &rest[..end.unwrap_or(rest.len())];
                (!word.is_empty() && !word.starts_with('{')).then_some(word)
            });
            return (argument, name.len());
        }
    }
    (None, 2)
}

fn is_box_before(text: &str) -> bool {
    let text = text.trim_end();
    BOXES.iter().any(|name| text.ends_with(name))
}

fn after_hashes(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once(HASHES)?;
    let answer = rest.lines().next().unwrap_or_default().trim();
    (!answer.is_empty()).then_some(answer)
}

fn after_phrase(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let ends = PHRASES.iter().filter_map(|phrase| Some(lower.rfind(phrase)? + phrase.len()));
    let line = text[ends.max()?..].lines().next().unwrap_or_default();
    let end = line.floor_char_boundary(PHRASE_BYTES_MAX);
    let sentence = line[..end].split(". ").next().unwrap_or_default();
    let answer = sentence
        .trim_start_matches(|c: char| c.is_whitespace() || "*:".contains(c))
        .trim_end_matches(|c: char| c.is_whitespace() || "*.".contains(c));
    (!answer.is_empty()).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found() {
        for (response, answer) in [
            ("so \\boxed{42}.", Some("42")),
            ("\\boxed{\\frac{1}{2}} cm", Some("\\frac{1}{2}")),
            ("\\boxed{1} no, \\boxed{ 2 }", Some("2")),
            ("\\boxed{a \\boxed{b} c}", Some("a \\boxed{b} c")),
            ("\\boxed {7}", Some("7")),
            ("$\\boxed 7$", Some("7")),
            ("\\fbox{7}", Some("7")),
            ("\\boxed{\\{1,2\\}}", Some("\\{1,2\\}")),
            ("\\boxed{1} and \\boxed{2 cut", Some("1")),
            ("} \\boxed{3}", Some("3")),
            ("{ \\boxed{3}", Some("3")),
            ("\\boxed{", None),
            ("\\boxed", None),
            ("\\boxed{}", Some("")),
            ("steps\n#### 18\n", Some("18")),
            ("#### ", None),
            ("\\boxed{1} #### 2", Some("1")),
            ("The final answer is 12. I hope so.", Some("12")),
            ("The answer is: **1.5**.", Some("1.5")),
            ("Answer: C", Some("C")),
            ("the answer is x = 3\nmore", Some("x = 3")),
            ("It takes 3 bolts.", None),
            ("", None),
            ("é\\é{\\boxed{é}}", Some("é")),
            ("a\\", None),
            ("\\\\boxed{5}", Some("5")),
        ] {
            assert_eq!(extract(response), answer, "{response}");
        }
    }

    #[test]
    fn gold_answers_count_as_marked_only_where_they_are() {
        assert_eq!(marked("x\\boxed{5}"), Some("5"));
        assert_eq!(marked("a\n#### 5"), Some("5"));
        assert_eq!(marked("the answer is 5"), None);
    }
}
