//! JSON as Python's `json.dumps` writes it, since that is what templates were written against: the
//! ids of a tool's description depend on each space. Knows nothing of conversations.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::engine::pay;
use super::python_numbers::float;

mod limits {
    /// Lists and objects inside each other; more is no description of a tool.
    pub(super) const DEPTH_MAX: usize = 100;
}

/// How the text is laid out. The default is Python's.
#[derive(Debug, Clone)]
struct Layout {
    /// Steps of what stands inside lists and objects, each on a line of its own.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    is_ascii: bool,
    is_sorted: bool,
}

/// The filter `tojson(ensure_ascii, indent, separators, sort_keys)`, all of them optional.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands its filters values")]
pub(super) fn to_json(
    state: &State<'_, '_>,
    value: &Value,
    ensure_ascii: Option<bool>,
    indent: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let layout = Layout::read(ensure_ascii, indent, &named)?;
    named.assert_all_used()?;
    let marker =
        state.lookup(super::engine::MARKER).and_then(|marker| marker.as_str()?.chars().next());
    let mut json = Writer { state, text: String::new(), layout, marker };
    json.write(value, 0)?;
    Ok(Value::from(json.text))
}

impl Layout {
    fn read(
        ensure_ascii: Option<bool>,
        indent: Option<Value>,
        named: &Kwargs,
    ) -> Result<Self, Error> {
        let indent =
            indent.map_or_else(|| named.get::<Option<Value>>("indent"), |given| Ok(Some(given)))?;
        let indent = indent.map(|indent| indent_of(&indent)).transpose()?.flatten();
        let separators = named.get::<Option<Vec<String>>>("separators")?;
        let (item_separator, key_separator) = match separators.as_deref() {
            Some([item, key]) => (item.clone(), key.clone()),
            Some(_) => return Err(fault("separators are two texts")),
            None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
            None => (", ".to_owned(), ": ".to_owned()),
        };
        Ok(Self {
            indent,
            item_separator,
            key_separator,
            is_ascii: match ensure_ascii {
                Some(given) => given,
                None => named.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            },
            is_sorted: named.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        })
    }
}

fn indent_of(indent: &Value) -> Result<Option<String>, Error> {
    match indent.kind() {
        ValueKind::None | ValueKind::Undefined => Ok(None),
        ValueKind::String => Ok(indent.as_str().map(str::to_owned)),
        _ => {
            let spaces = usize::try_from(indent.clone())?;
            Ok(Some(" ".repeat(spaces.min(limits::DEPTH_MAX))))
        }
    }
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    text: String,
    layout: Layout,
    /// Written as it is wherever it stands.
    marker: Option<char>,
}

impl Writer<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > limits::DEPTH_MAX {
            return Err(fault("lists and objects are nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(value, depth)?,
            ValueKind::Map => self.write_object(value, depth)?,
            other => return Err(fault(&format!("{other} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn write_list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let mut is_empty = true;
        for item in list.try_iter()? {
            self.begin_item(is_empty, depth + 1)?;
            is_empty = false;
            self.write(&item, depth + 1)?;
        }
        self.end_items(is_empty, depth)?;
        self.text.push(']');
        Ok(())
    }

    fn write_object(&mut self, object: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = object.try_iter()?.collect();
        if self.layout.is_sorted {
            keys.sort();
        }
        self.text.push('{');
        for (index, key) in keys.iter().enumerate() {
            self.begin_item(index == 0, depth + 1)?;
            match key.kind() {
                ValueKind::String => self.write_text(key.as_str().unwrap_or_default()),
                ValueKind::None => self.text.push_str("\"null\""),
                ValueKind::Bool => {
                    self.text.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" });
                }
                ValueKind::Number => {
                    let _ = write!(self.text, "\"{}\"", number(key));
                }
                other => return Err(fault(&format!("{other} cannot be a key of JSON"))),
            }
            pay(self.state, self.layout.key_separator.len())?;
            self.text.push_str(&self.layout.key_separator);
            self.write(&object.get_item(key)?, depth + 1)?;
        }
        self.end_items(keys.is_empty(), depth)?;
        self.text.push('}');
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, depth: usize) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        if !is_first {
            pay(self.state, self.layout.item_separator.len())?;
            self.text.push_str(&self.layout.item_separator);
        }
        self.new_line(depth)
    }

    fn end_items(&mut self, is_empty: bool, depth: usize) -> Result<(), Error> {
        if is_empty { Ok(()) } else { self.new_line(depth) }
    }

    fn new_line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.layout.indent {
            pay(self.state, indent.len().saturating_mul(depth))?;
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn write_text(&mut self, text: &str) {
        self.text.push('"');
        for char in text.chars() {
            match char {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                _ if Some(char) == self.marker => self.text.push(char),
                '\0'..='\u{1f}' => self.write_escaped(char),
                _ if self.layout.is_ascii && !matches!(char, ' '..='~') => self.write_escaped(char),
                _ => self.text.push(char),
            }
        }
        self.text.push('"');
    }

    fn write_escaped(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            let _ = write!(self.text, "\\u{unit:04x}");
        }
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(f64::INFINITY) => "Infinity".to_owned(),
        Ok(f64::NEG_INFINITY) => "-Infinity".to_owned(),
        Ok(number) if number.is_nan() => "NaN".to_owned(),
        Ok(number) if !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

fn fault(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}
