//! Answers that are a letter of a multiple-choice question. Knows letters only, not the options.

/// Commands that leave what follows as it stands.
const TEXT_COMMANDS: [&str; 8] =
    ["\\left", "\\right", "\\text", "\\textbf", "\\textrm", "\\mathrm", "\\mathbf", "\\mbox"];

/// The letter a gold answer asks for, if that is all it says: `C`, `(C)`, `\text{(C)}`. Small
/// letters are variables and constants.
pub(super) fn letter_asked(gold: &str) -> Option<char> {
    let text = plain(gold);
    let inside = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    single_letter(inside.unwrap_or(&text)).filter(|_| !text.contains(|c: char| c.is_lowercase()))
}

/// The letter an answer chooses: alone, or with the option's text behind it, as in `(C) 12`,
/// `C. 12` and `\textbf{(C)}\ 12`.
pub(super) fn letter_chosen(answer: &str) -> Option<char> {
    let text = plain(answer);
    let text = ["option ", "choice ", "Option ", "Choice "]
        .iter()
        .find_map(|word| text.strip_prefix(word))
        .unwrap_or(&text);
    let (first, is_open) = match text.strip_prefix('(') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let rest = first.get(1..)?;
    let letter = single_letter(first.get(..1)?)?;
    let ends_letter = if is_open {
        rest.starts_with(')')
    } else {
        rest.is_empty() || rest.starts_with(['.', ')', ':', ','])
    };
    ends_letter.then_some(letter)
}

fn single_letter(text: &str) -> Option<char> {
    let mut letters = text.chars();
    let letter = letters.next()?.to_ascii_uppercase();
    (letters.next().is_none() && ('A'..='E').contains(&letter)).then_some(letter)
}

/// The text without what only shapes it. Long texts are no choices: their end does not matter.
fn plain(text: &str) -> String {
    const BYTES_MAX: usize = 128;
    let mut text = text[..text.floor_char_boundary(BYTES_MAX)].replace(['$', '{', '}', '*'], "");
    for command in TEXT_COMMANDS.iter().rev() {
        text = text.replace(command, "");
    }
    text.trim_matches(|c: char| c.is_whitespace() || c == '.' || c == '~').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_asked_for() {
        for (gold, letter) in [
            ("C", Some('C')),
            ("\\text{(C)}", Some('C')),
            ("\\textbf{(E)}", Some('E')),
            ("b", None),
            ("e", None),
            ("F", None),
            ("AB", None),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(letter_asked(gold), letter, "{gold}");
        }
    }

    #[test]
    fn letters_are_chosen() {
        for (answer, letter) in [
            ("C", Some('C')),
            ("c", Some('C')),
            ("(C)", Some('C')),
            ("\\text{(C) } 12", Some('C')),
            ("\\textbf{(C)}\\ 12", Some('C')),
            ("C. 12", Some('C')),
            ("option B", Some('B')),
            ("(Circle)", None),
            ("Circle", None),
            ("C^2", None),
            ("é", None),
            ("", None),
            ("(A,B)", None),
        ] {
            assert_eq!(letter_chosen(answer), letter, "{answer}");
        }
    }
}
