//! Methods of Python's texts and lists that templates call and the engine's own set lacks, or has
//! with other rules about space. Knows nothing of conversations.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::engine::pay;
use super::python_numbers;

/// What a part of a text takes in a list.
const PART_BYTES: usize = 2 * size_of::<Value>();

/// Calls `method` of `value` as Python would.
pub(super) fn call_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => text_method(state, value.as_str().unwrap_or_default(), method, args),
        ValueKind::Seq if method == "index" => index_of(value, args).map(Some),
        _ => Ok(None),
    };
    match own? {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// The filter `trim(chars)`.
pub(super) fn trim(text: &str, chars: Option<&str>) -> String {
    strip(text, chars, true, true).to_owned()
}

/// The filter `title`: words begin behind space and some brackets, and are lowercase from their second
/// character on.
pub(super) fn title(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let text = python_numbers::printed(state, value)?.to_string();
    let is_between = |char: char| is_space(char) || matches!(char, '-' | '(' | '{' | '[' | '<');
    let words = text.split_inclusive(is_between).map(|word| {
        let mut rest = word.chars();
        let first = rest.next().into_iter().flat_map(char::to_uppercase);
        first.chain(rest.as_str().to_lowercase().chars()).collect::<String>()
    });
    Ok(words.collect())
}

fn text_method(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "partition")
        }
        "rsplit" => {
            let (separator, splits_max): (Option<&str>, Option<i64>) = from_args(args)?;
            let ends =
                |char: char| separator.map_or_else(|| is_space(char), |ends| ends.contains(char));
            pay(state, text.matches(ends).count().saturating_mul(PART_BYTES))?;
            rsplit(text, separator, splits_max)
        }
        "splitlines" => {
            let (keeps_ends,): (Option<bool>,) = from_args(args)?;
            pay(state, text.matches(is_line_end).count().saturating_mul(PART_BYTES))?;
            split_lines(text, keeps_ends.unwrap_or(false))
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            let at = text.find(part).ok_or_else(|| fault("the text is not in the other one"))?;
            Value::from(text[..at].chars().count())
        }
        _ => return Ok(None),
    }))
}

fn strip<'a>(text: &'a str, chars: Option<&str>, at_start: bool, at_end: bool) -> &'a str {
    let is_stripped = |char: char| match chars {
        Some(chars) => chars.contains(char),
        None => is_space(char),
    };
    let text = if at_start { text.trim_start_matches(is_stripped) } else { text };
    if at_end { text.trim_end_matches(is_stripped) } else { text }
}

/// Python counts the separators of ASCII among the spaces, Unicode does not.
fn is_space(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\u{1c}'..='\u{1f}')
}

fn partition(text: &str, separator: &str, from_start: bool) -> Value {
    let split = if from_start { text.split_once(separator) } else { text.rsplit_once(separator) };
    let parts = match split {
        Some((before, after)) => [before, separator, after],
        None if from_start => [text, "", ""],
        None => ["", "", text],
    };
    Value::from(Tuple::from(parts.map(Value::from)))
}

fn rsplit(text: &str, separator: Option<&str>, splits_max: Option<i64>) -> Value {
    let parts_max = splits_max.and_then(|splits| usize::try_from(splits).ok());
    let parts_max = parts_max.map_or(usize::MAX, |splits| splits.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(parts_max, separator).collect(),
        None => spaced_parts_from_end(text, parts_max),
    };
    parts.reverse();
    Value::from_iter(parts)
}

fn spaced_parts_from_end(text: &str, parts_max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let word = rest.rsplit(is_space).next().filter(|_| parts.len() + 1 < parts_max);
        let word = word.unwrap_or_else(|| rest.trim_start_matches(is_space));
        parts.push(word);
        rest = if parts.len() == parts_max { "" } else { &rest[..rest.len() - word.len()] };
        rest = rest.trim_end_matches(is_space);
    }
    parts
}

/// Lines end as Python says: with CR, LF or both, and with the separators of ASCII and Unicode.
fn is_line_end(char: char) -> bool {
    matches!(
        char,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn split_lines(text: &str, keeps_ends: bool) -> Value {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        let tail = &rest[at..];
        let first = tail.chars().next().map_or(0, char::len_utf8);
        let end_bytes = if tail.starts_with("\r\n") { 2 } else { first };
        let kept = if keeps_ends { at + end_bytes } else { at };
        lines.push(&rest[..kept]);
        rest = &rest[at + end_bytes..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    Value::from_iter(lines)
}

fn index_of(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    let at = list.try_iter()?.position(|item| item == *wanted);
    at.map(Value::from).ok_or_else(|| fault("the value is not in the list"))
}

fn fault(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, text: &str, args: &[Value]) -> Result<Option<Value>, Error> {
        text_method(&minijinja::Environment::new().empty_state(), text, method, args)
    }

    fn check(method: &str, text: &str, args: &[Value], expected: &str) {
        let told = call(method, text, args).unwrap().unwrap();
        assert_eq!(told.to_string(), expected, "{text:?}.{method}");
    }

    #[test]
    fn texts_are_cut_as_in_python() {
        let arg = |text: &str| [Value::from(text)];
        check("strip", " \u{1c}a b\u{85}", &[], "a b");
        check("rstrip", " a \n", &[], " a");
        check("lstrip", "\n\na", &arg("\n"), "a");
        check("removeprefix", "aab", &arg("a"), "ab");
        check("removesuffix", "aab", &arg("b"), "aa");
        check("partition", "a=b=c", &arg("="), "('a', '=', 'b=c')");
        check("partition", "abc", &arg("="), "('abc', '', '')");
        check("rpartition", "a=b=c", &arg("="), "('a=b', '=', 'c')");
        check("rsplit", "a=b=c", &[Value::from("="), Value::from(1)], "['a=b', 'c']");
        check("rsplit", " a  b c ", &[], "['a', 'b', 'c']");
        check("rsplit", " a  b c ", &[Value::from(()), Value::from(1)], "['a  b', 'c']");
        check("splitlines", "a\r\nb\rc\u{2028}\n", &[], "['a', 'b', 'c', '']");
        check("splitlines", "a\r\nb", &[Value::from(true)], "['a\\r\\n', 'b']");
        check("index", "日本", &arg("本"), "1");
        assert!(call("index", "a", &arg("b")).is_err());
    }
}
