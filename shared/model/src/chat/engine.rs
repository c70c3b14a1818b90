//! The template engine, set up as transformers sets up its own: what published templates may use.
//! Knows nothing of messages.

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::StringInput;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use time::PrimitiveDateTime;
use time::format_description::parse_strftime_owned;

use super::{markup, python_json, python_kinds, python_numbers, python_text};
use crate::error::{ModelError, printable};

/// The variable that holds what marks control texts; no template can name it.
pub(super) const MARKER: &str = "control text marker";

pub(super) use limits::TEMPLATE_BYTES_MAX;

mod limits {
    /// What a template may spend, on time and on memory: a unit pays for one step, and for 64 bytes
    /// of a text that is printed, joined or otherwise made here: 256 MB at most. An honest template
    /// takes a few hundred per message, and a few for each 64 bytes of it. It is no wall against a
    /// model that means harm: lists that hold themselves over and over, compared or put together
    /// with `~`, are the engine's own, which pays for them afterwards or not at all. Whoever loads a
    /// model trusts its template as far as that.
    pub(super) const TEMPLATE_FUEL: u64 = 4_000_000;
    /// Bytes of a template; the longest published ones have some twenty thousand.
    pub(in crate::chat) const TEMPLATE_BYTES_MAX: usize = 1 << 20;
    /// As the engine has it.
    pub(super) const BYTES_PER_FUEL: u64 = 64;
}

/// An engine without templates.
pub(super) fn new_environment() -> Result<Environment<'static>, ModelError> {
    let mut environment = Environment::new();
    environment.set_syntax(published_syntax()?);
    environment.set_fuel(Some(limits::TEMPLATE_FUEL));
    environment.set_formatter(python_numbers::print);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("string", python_numbers::string);
    environment.add_filter("join", python_numbers::join);
    environment.add_filter("round", python_numbers::round);
    environment.add_filter("title", python_text::title);
    environment.add_filter("tojson", python_json::to_json);
    environment.add_filter("trim", |text: StringInput<'_>, chars: Option<Cow<'_, str>>| {
        python_text::trim(text.as_str(), chars.as_deref())
    });
    environment.add_filter("escape", markup::escape);
    environment.add_filter("e", markup::escape);
    environment.add_filter("forceescape", markup::force_escape);
    environment.add_test("iterable", python_kinds::is_iterable);
    environment.add_test("sequence", python_kinds::is_sequence);
    environment.add_test("number", python_kinds::is_number);
    environment.set_unknown_method_callback(python_text::call_method);
    Ok(environment)
}

/// Takes fuel for bytes that a filter or a method is about to make: the engine itself charges for
/// what came out, when it is there.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(bytes).unwrap_or(u64::MAX) / limits::BYTES_PER_FUEL)
}

/// Adds a template.
pub(super) fn add_template(
    environment: &mut Environment<'static>,
    name: &'static str,
    source: &str,
) -> Result<(), ModelError> {
    let bytes = source.len();
    if bytes > limits::TEMPLATE_BYTES_MAX {
        let most = limits::TEMPLATE_BYTES_MAX;
        let what = format!("it has {bytes} bytes, where {most} are the most");
        return Err(ModelError::template(what));
    }
    // As Jinja2 reads a source: every kind of line end is one.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = with_changed_tags(&source);
    environment.add_template_owned(name, source).map_err(|error| template_fault(&error))
}

/// The function `strftime_now(format)`, for this moment.
pub(super) fn clock(now: PrimitiveDateTime) -> Value {
    Value::from_function(move |format: &str| -> Result<String, Error> {
        let fault = |what: String| Error::new(ErrorKind::InvalidOperation, what);
        let description = parse_strftime_owned(format)
            .map_err(|error| fault(format!("the time format {format:?} is not known: {error}")))?;
        now.format(&description)
            .map_err(|error| fault(format!("no time in the format {format:?}: {error}")))
    })
}

fn template_fault(error: &Error) -> ModelError {
    ModelError::template(fault_text(error))
}

/// What the engine says about an error's cause. Templates word errors themselves (`raise_exception`),
/// and are strangers: what would steer a terminal is spelled out.
pub(super) fn fault_text(error: &Error) -> String {
    printable(&error.to_string())
}

/// Templates are published for an engine with these two switched on.
fn published_syntax() -> Result<SyntaxConfig, ModelError> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.map_err(|error| template_fault(&error))
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `{% generation %}` marks an answer for training and is rendered as what it holds, with variables
/// of its own: the engine's `with` does the same. Sums of texts marked safe: see `markup`.
fn with_changed_tags(source: &str) -> String {
    let mut changed = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tail) = rest.split_at(start);
        changed.push_str(before);
        let tag_bytes = tag_bytes(tail);
        let (tag, after) = tail.split_at(tag_bytes);
        changed.push_str(&match tag_name(tag) {
            Some(name @ ("generation" | "endgeneration")) => {
                tag.replacen(name, &name.replace("generation", "with"), 1)
            }
            _ => markup::with_escaped_terms(tag).unwrap_or_else(|| tag.to_owned()),
        });
        rest = after;
    }
    changed + rest
}

/// Bytes of the tag, expression or comment at the start of a text; one where there is none. What is
/// never closed goes to the end: the engine refuses it, and nobody looks for its end again.
fn tag_bytes(text: &str) -> usize {
    let close = match text.as_bytes().get(1) {
        Some(b'%') => "%}",
        Some(b'{') => "}}",
        Some(b'#') => return text.find("#}").map_or(text.len(), |end| end + 2),
        _ => return 1,
    };
    let mut quote = None;
    for (at, char) in text.char_indices().skip(2) {
        match quote {
            Some((open, is_escaped)) if is_escaped || char != open => {
                quote = Some((open, char == '\\' && !is_escaped));
            }
            Some(_) => quote = None,
            None if text[at..].starts_with(close) => return at + close.len(),
            None if matches!(char, '"' | '\'') => quote = Some((char, false)),
            None => {}
        }
    }
    text.len()
}

fn tag_name(tag: &str) -> Option<&str> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    Some(inner.trim_matches(|char: char| char.is_whitespace() || matches!(char, '-' | '+')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;
    use time::macros::datetime;

    fn render(source: &str) -> Result<String, ModelError> {
        let mut environment = new_environment()?;
        add_template(&mut environment, "test", source)?;
        let template = environment.get_template("test").unwrap();
        let now = clock(datetime!(2024-07-06 08:09:05));
        template.render(context! { strftime_now => now }).map_err(|error| template_fault(&error))
    }

    #[test]
    fn every_kind_of_line_end_is_one() {
        let source = "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc\rd";
        assert_eq!(render(source).unwrap(), "a\nb\nc\nd");
    }

    #[test]
    fn generation_tags_are_rendered_as_what_they_hold() {
        for (source, rendered) in [
            ("a\n  {% generation %}\nb\n  {% endgeneration %}\nc", "a\nb\nc"),
            ("a {%- generation -%} b {%+ endgeneration +%} c", "ab  c"),
            ("{{ '{% generation %}' }}", "{% generation %}"),
            ("{# {% generation %} #}a{ {% if '%}' %}b{% endif %}", "a{ b"),
            ("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1"),
            ("{{ 'it\\'s {% generation %}' }}", "it's {% generation %}"),
        ] {
            assert_eq!(render(source).unwrap(), rendered, "{source}");
        }
    }

    #[test]
    fn the_time_is_told_as_by_strftime() {
        for (format, told) in [
            ("%d %b %Y", "06 Jul 2024"),
            ("%Y-%m-%d %H:%M:%S", "2024-07-06 08:09:05"),
            ("%B %-d, %Y", "July 6, 2024"),
            ("%A %a %j %I %p %y %%", "Saturday Sat 188 08 AM 24 %"),
        ] {
            let source = format!("{{{{ strftime_now('{format}') }}}}");
            assert_eq!(render(&source).unwrap(), told, "{format}");
        }
        let error = render("{{ strftime_now('%Q') }}").unwrap_err();
        assert!(error.to_string().contains("\"%Q\""), "{error}");
    }

    #[test]
    fn a_template_without_end_is_stopped() {
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(render(endless).is_err());
    }

    #[test]
    fn a_template_cannot_make_texts_without_end() {
        let doubled = "{% set n = namespace(x='ab') %}{% for i in range(40) %}\
                       {% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}";
        // Filters and methods of our own pay before they make a text, not after.
        let indented = "{{ range(10000) | tojson(indent='x' * 1000000) | length }}";
        let separated = "{{ range(10000) | tojson(separators=['x' * 1000000, ':']) | length }}";
        let lines = "{% set t = '\\n' * 100000000 %}{{ t.splitlines() | length }}";
        let parts = "{% set t = 'a ' * 50000000 %}{{ t.rsplit(' ') | length }}";
        let billion = "{{ 'ab' * 1000000000 }}";
        for source in [doubled, billion, indented, separated, lines, parts] {
            assert!(render(source).unwrap_err().to_string().contains("fuel"), "{source}");
        }
        let long = render("{% for i in range(10000) %}{{ 'ab' * 500 }}{% endfor %}").unwrap();
        assert_eq!(long.len(), 10_000_000);
    }

    #[test]
    fn a_template_cannot_make_lists_without_end() {
        for (first, lists, grown, said) in [
            ("[1.5]", 24, "[n.x, n.x]", "fuel"),
            ("range(10000)", 10, "[n.x, n.x]", "fuel"),
            ("[1.5]", 200, "[n.x]", "too deep"),
        ] {
            let made = format!(
                "{{% set n = namespace(x={first}) %}}{{% for i in range({lists}) %}}\
                 {{% set n.x = {grown} %}}{{% endfor %}}"
            );
            for used in
                ["n.x", "n.x | string", "n.x | join", "n.x | title", "n.x | e", "n.x | tojson"]
            {
                let error = render(&format!("{made}{{{{ {used} }}}}")).unwrap_err().to_string();
                assert!(error.contains(said), "{used}: {error}");
            }
        }
    }

    #[test]
    fn what_is_never_closed_is_looked_through_once() {
        // To the end, so that nothing within is begun with again.
        for text in ["{% a {% b", "{{ a {{ b", "{# a {# b", "{% 'a {% b"] {
            assert_eq!(tag_bytes(text), text.len(), "{text}");
            assert!(render(text).is_err(), "{text}");
        }
        assert_eq!(tag_bytes("{% a %} b"), 7);
    }

    #[test]
    fn a_line_may_be_as_long_as_a_template() {
        let spaces = " ".repeat(70_000);
        assert_eq!(render(&format!("{{{{{spaces} 'a' ~{spaces} 'b' }}}}")).unwrap(), "ab");
        let error = render(&format!("{spaces}{{{{ a.b.c }}}}")).unwrap_err().to_string();
        assert!(error.contains("undefined"), "{error}");
        assert!(render(&format!("{spaces}{{% if %}}")).is_err());
        assert_eq!(render(&"\n".repeat(70_000)).unwrap().len(), 69_999);
    }

    #[test]
    fn words_of_a_template_do_not_steer_a_terminal() {
        let error =
            render("{{ raise_exception('é \u{1b}[2J\n\u{202E}b') }}").unwrap_err().to_string();
        assert!(error.contains("é \\u{1b}[2J\\n\\u{202e}b"), "{error}");
    }
}
