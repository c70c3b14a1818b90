//! Texts marked safe (`| safe`, `| escape`), as `markupsafe` has them: in a sum with such a text all
//! others are escaped, although nothing else is in a chat template. Our engine does so only where it
//! escapes everything, so the source is changed: `a | safe + b` becomes `a | safe + b | escape`.
//!
//! A sum whose terms hold other operators outside of brackets stays as it is, and so does one whose
//! terms are marked inside of brackets or passed on by a method. Knows nothing of conversations.

use minijinja::{Error, State, Value};

use super::python_numbers::printed;

/// Words that are operators.
const OPERATORS: [&str; 7] = ["if", "else", "and", "or", "not", "is", "in"];

/// Filters whose result is marked safe.
const MARKING: [&str; 4] = ["safe", "escape", "e", "forceescape"];
/// Filters whose result is marked as what they are given.
const PASSING: [&str; 6] = ["trim", "upper", "lower", "capitalize", "string", "indent"];

/// The filter `escape`: with the entities of `markupsafe`.
pub(super) fn escape(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.is_safe() { Ok(value.clone()) } else { force_escape(state, value) }
}

/// The filter `forceescape`: texts marked safe too.
pub(super) fn force_escape(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let mut escaped = String::new();
    for char in printed(state, value)?.to_string().chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(char),
        }
    }
    Ok(Value::from_safe_string(escaped))
}

/// The expression tag with its terms escaped; `None` where it is no sum with a text marked safe.
pub(super) fn with_escaped_terms(tag: &str) -> Option<String> {
    let inner = tag.strip_prefix("{{")?.strip_suffix("}}")?;
    let open = usize::from(inner.starts_with(['-', '+']));
    let close = usize::from(inner.len() > open && inner.ends_with(['-', '+']));
    let (before, rest) = inner.split_at(open);
    let (sum, after) = rest.split_at(rest.len() - close);
    let terms = terms_of(sum)?;
    if !terms.iter().any(|term| is_marked_safe(term)) {
        return None;
    }
    let escaped = terms.iter().map(|term| {
        let filter = if is_marked_safe(term) { "" } else { "| escape " };
        format!("{term}{filter}")
    });
    Some(format!("{{{{{before}{}{after}}}}}", escaped.collect::<Vec<_>>().join("+")))
}

fn is_marked_safe(term: &str) -> bool {
    let mut filtered = term.trim_end();
    while let Some((before, filter)) = filtered.rsplit_once('|') {
        let filter = filter.trim_start();
        if MARKING.contains(&filter) || !PASSING.contains(&filter) {
            return MARKING.contains(&filter);
        }
        filtered = before.trim_end();
    }
    false
}

/// What stands between the pluses outside of texts and brackets; `None` where other operators do too.
fn terms_of(sum: &str) -> Option<Vec<&str>> {
    let (mut terms, mut start) = (Vec::new(), 0);
    let mut quote: Option<(char, bool)> = None;
    let mut depth = 0_usize;
    let mut word = String::new();
    for (at, char) in sum.char_indices() {
        if let Some((open, is_escaped)) = quote {
            let is_end = char == open && !is_escaped;
            quote = (!is_end).then_some((open, char == '\\' && !is_escaped));
            continue;
        }
        if depth == 0 && (char.is_alphanumeric() || char == '_') {
            word.push(char);
            continue;
        }
        if OPERATORS.contains(&std::mem::take(&mut word).as_str()) {
            return None;
        }
        match char {
            '"' | '\'' => quote = Some((char, false)),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            '+' if depth == 0 => {
                terms.push(&sum[start..at]);
                start = at + 1;
            }
            _ if depth > 0 || char.is_whitespace() || matches!(char, '|' | '.') => {}
            _ => return None,
        }
    }
    terms.push(&sum[start..]);
    let is_whole = !OPERATORS.contains(&word.as_str());
    (is_whole && terms.len() > 1).then_some(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_beside_a_text_marked_safe_are_escaped() {
        for (tag, changed) in [
            ("{{ 'a'|safe + b }}", "{{ 'a'|safe + b | escape }}"),
            (
                "{{- a + \"x+y'\" | safe + c['+ if'] | tojson() -}}",
                "{{- a | escape + \"x+y'\" | safe + c['+ if'] | tojson() | escape -}}",
            ),
            ("{{ a | e + b|upper }}", "{{ a | e + b|upper | escape }}"),
            ("{{ a + b|escape | trim }}", "{{ a | escape + b|escape | trim }}"),
            (
                "{{ 'it\\'s + ' | safe + (b if c else d) }}",
                "{{ 'it\\'s + ' | safe + (b if c else d) | escape }}",
            ),
        ] {
            assert_eq!(with_escaped_terms(tag).as_deref(), Some(changed));
        }
        for same in [
            "{{ a + b }}",
            "{{ a | safe }}",
            "{{ 'a'|safe + b ~ c }}",
            "{{ 'a'|safe + b if c else d }}",
            "{{ unsafe + b }}",
            "{{ a | e | length + b | tojson }}",
            "{{ trim | trim + e }}",
            "{{ ('a' | safe + b) }}",
            "{{ 'a | safe + b' }}",
            "{% set x = 'a' | safe + b %}",
            "{{-}}",
            "{{",
        ] {
            assert_eq!(with_escaped_terms(same), None, "{same}");
        }
    }
}
