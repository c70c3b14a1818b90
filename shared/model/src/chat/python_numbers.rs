//! Numbers as Python writes and rounds them, wherever they stand. Knows nothing of conversations.
//!
//! The engine writes numbers with a fraction as Rust does, which is the same from 1e-4 up and below
//! 1e16. What is printed, and what `join` and `string` make, goes through here. The operator `~` and
//! filters for texts (`upper`, `trim`) are the engine's own: there other numbers look as in Rust.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, StringInput, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter, filters};

mod limits {
    /// Lists and objects inside each other; nothing that is printed has more.
    pub(super) const DEPTH_MAX: usize = 100;
}

/// A number in a list or an object.
struct Written(String);

impl fmt::Debug for Written {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Object for Written {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a template prints.
pub(super) fn print(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    let printed = printed(state, value)?;
    escape_formatter(out, state, &printed)
}

/// The filter `string`.
pub(super) fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    filters::string(state, &*printed(state, value)?)
}

/// The filter `join(d, attribute)`.
pub(super) fn join(
    state: &mut State<'_, '_>,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    named: Kwargs,
) -> Result<Value, Error> {
    let printed = printed(state, value)?;
    filters::join(state, &printed, joiner, attribute, named)
}

/// The filter `round(precision, method)`: what is rounded up or down is never a whole number's kind.
pub(super) fn round(
    value: Value,
    precision: Option<i32>,
    method: Option<&str>,
    named: Kwargs,
) -> Result<Value, Error> {
    let method = match method {
        Some(method) => Some(method.to_owned()),
        None => named.get::<Option<String>>("method")?,
    };
    let method = method.as_deref();
    let is_bool = value.kind() == ValueKind::Bool;
    let value = if is_bool { Value::from(i64::from(value.is_true())) } else { value };
    let value = match method {
        Some("ceil" | "floor") if value.is_integer() => f64::try_from(value)?.into(),
        _ => value,
    };
    filters::round(value, precision, method, named)
}

/// The value so that it is written as Python writes it. Pays for each part of it: a list may hold
/// another one many times, and that one others.
///
/// # Errors
/// Where nothing is left to pay with, or lists lie too deep in each other.
pub(super) fn printed<'a>(
    state: &State<'_, '_>,
    value: &'a Value,
) -> Result<Cow<'a, Value>, Error> {
    Ok(match odd_float(value) {
        Some(number) => Cow::Owned(Value::from(float(number))),
        None if holds_odd_floats(state, value, 0)? => Cow::Owned(rewritten(value)),
        None => Cow::Borrowed(value),
    })
}

/// The shortest digits that give the number back, with an exponent from 1e16 up and below 1e-4.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// A number that Rust writes otherwise.
fn odd_float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    let number = f64::try_from(value.clone()).ok().filter(|_| is_float)?;
    (number != 0.0 && !(1e-4..1e16).contains(&number.abs())).then_some(number)
}

fn holds_odd_floats(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<bool, Error> {
    let parts = parts_of(value);
    if depth == limits::DEPTH_MAX && !parts.is_empty() {
        let what = "lists and objects lie too deep in each other to be printed";
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    let mut holds_some = odd_float(value).is_some();
    for part in parts {
        state.consume_fuel(1)?;
        holds_some |= holds_odd_floats(state, &part, depth + 1)?;
    }
    Ok(holds_some)
}

/// What lists and objects hold, keys too.
fn parts_of(value: &Value) -> Vec<Value> {
    let Some(object) = value.as_object() else {
        return Vec::new();
    };
    match value.kind() {
        // What can be gone through once only has no length, and prints as one word.
        ValueKind::Iterable if object.enumerator_len().is_none() => Vec::new(),
        ValueKind::Seq | ValueKind::Iterable => object.try_iter().into_iter().flatten().collect(),
        ValueKind::Map => {
            let pairs = object.try_iter_pairs().into_iter().flatten();
            pairs.flat_map(|(key, value)| [key, value]).collect()
        }
        _ => Vec::new(),
    }
}

fn rewritten(value: &Value) -> Value {
    if let Some(number) = odd_float(value) {
        return Value::from_object(Written(float(number)));
    }
    let parts = parts_of(value);
    match value.kind() {
        ValueKind::Seq => {
            let items: Vec<Value> = parts.iter().map(rewritten).collect();
            match value.downcast_object_ref::<Tuple>() {
                Some(_) => Value::from(Tuple::new(items)),
                None => Value::from(items),
            }
        }
        ValueKind::Map => {
            let pairs = parts.chunks_exact(2);
            Value::from_pairs(pairs.map(|pair| (rewritten(&pair[0]), rewritten(&pair[1]))))
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_read_as_in_python() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1234.5, "1234.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
