//! Finds the answers in a rendered conversation. Knows texts only.

/// Stands for one answer: a text no template trims, splits or changes.
pub(super) fn sentinel(index: usize, marker: char) -> String {
    format!("{}{index}{marker}", sentinel_start(marker))
}

/// Two markers side by side stand nowhere else: each that escapes a text follows a character of it.
fn sentinel_start(marker: char) -> String {
    format!("{marker}{marker}answer")
}

/// The texts around the sentinels; `None` if each is not there once and in order.
pub(super) fn split_at_sentinels(
    rendered: &str,
    answers: usize,
    marker: char,
) -> Option<Vec<String>> {
    let mut pieces = Vec::with_capacity(answers + 1);
    let mut rest = rendered;
    for index in 0..answers {
        let (before, after) = rest.split_once(&sentinel(index, marker))?;
        pieces.push(before.to_owned());
        rest = after;
    }
    pieces.push(rest.to_owned());
    let found = rendered.matches(&sentinel_start(marker)).count();
    (found == answers).then_some(pieces)
}

/// What a template made of the answers that stand between `pieces` in `rendered`: the answer
/// itself where it is there, whatever the template thinks of the space around it, and else what is
/// there in its place. `None` if the pieces are not what is rendered around the answers.
pub(super) fn find_answers(
    rendered: &str,
    pieces: &[String],
    answers: &[String],
) -> Option<Vec<String>> {
    let (first, following) = pieces.split_first()?;
    let mut rest = rendered.strip_prefix(first.as_str())?;
    let mut found = Vec::with_capacity(answers.len());
    for (index, (answer, next)) in answers.iter().zip(following).enumerate() {
        let is_last = index + 1 == answers.len();
        let end = end_of_answer(rest, answer, next, is_last)?;
        let written = &rest[..end];
        let is_same = written.trim() == answer.trim();
        found.push(if is_same { answer.clone() } else { written.to_owned() });
        rest = &rest[end + next.len()..];
    }
    rest.is_empty().then_some(found)
}

fn end_of_answer(rest: &str, answer: &str, next: &str, is_last: bool) -> Option<usize> {
    let follows = |after: &str| if is_last { after == next } else { after.starts_with(next) };
    if rest.strip_prefix(answer).is_some_and(follows) {
        return Some(answer.len());
    }
    if is_last {
        return rest.strip_suffix(next).map(str::len);
    }
    // Between two answers that are not there as written, nothing tells where the first one ends.
    if next.is_empty() { None } else { rest.find(next) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn check(rendered: &str, pieces: &[&str], answers: &[&str], found: Option<&[&str]>) {
        let told = find_answers(rendered, &strings(pieces), &strings(answers));
        assert_eq!(told, found.map(strings), "{rendered}");
    }

    #[test]
    fn answers_are_found_as_written_or_as_changed() {
        let pieces = ["[", "][", "]"];
        check("[a][b]", &pieces, &["a", "b"], Some(&["a", "b"]));
        check("[a][b]", &pieces, &["a\n", " b"], Some(&["a\n", " b"]));
        check("[a][b]", &pieces, &["<x>a", "<y>b"], Some(&["a", "b"]));
        check("[][b]]", &pieces, &["<x>", "b]"], Some(&["", "b]"]));
        check("[a][c][b]", &pieces, &["a][c", "b"], Some(&["a][c", "b"]));
        check("[]", &["[", "]"], &[""], Some(&[""]));
        check("x", &["x"], &[], Some(&[]));
    }

    #[test]
    fn other_surroundings_are_refused() {
        check("(a][b]", &["[", "][", "]"], &["a", "b"], None);
        check("[a](b]", &["[", "][", "]"], &["a", "b"], None);
        check("[a][b)", &["[", "][", "]"], &["a", "b"], None);
        check("[a][b]c", &["[", "][", "]"], &["a", "b"], None);
        check("ab", &["", "", ""], &["<x>a", "<y>b"], None);
    }

    #[test]
    fn sentinels_must_stand_once_and_in_order() {
        let [one, two] = [sentinel(0, '*'), sentinel(1, '*')];
        let split = |rendered: String| split_at_sentinels(&rendered, 2, '*');
        assert_eq!(split(format!("a{one}b{two}c")), Some(strings(&["a", "b", "c"])));
        for wrong in [format!("{two}{one}"), format!("{one}{one}{two}"), one, two] {
            assert_eq!(split(wrong), None);
        }
    }
}
