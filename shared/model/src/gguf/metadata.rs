//! What a GGUF file says about its model: keys and values, as far as readers need them.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::{DAMAGED, UNSUPPORTED};
use crate::error::ModelError;

mod limits {
    /// Elements of one array: vocabularies and merges stay far below.
    pub(super) const ARRAY_ELEMENTS_MAX: u64 = 1 << 22;
    /// Alignment of tensors.
    pub(super) const ALIGNMENT_MAX: usize = 1 << 20;
}

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Of any width; a truth value is 0 or 1.
    Integer(i128),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
    /// What does not fit is −1.
    Integers(Vec<i64>),
    /// An array no reader of ours wants.
    Other,
}

pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
) -> Result<HashMap<String, Value>, ModelError> {
    let mut metadata = HashMap::new();
    for _ in 0..count {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let value = read_value(cursor, kind, &key)?;
        if metadata.contains_key(&key) {
            return Err(cursor.bad(format!("key {key} occurs twice"), DAMAGED));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<Value, ModelError> {
    Ok(match kind {
        6 => Value::Float(f64::from(f32::from_le_bytes(cursor.array()?))),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        8 => Value::Text(cursor.text()?),
        9 => read_list(cursor, key)?,
        _ => Value::Integer(read_integer(cursor, kind, key)?),
    })
}

fn read_integer(cursor: &mut Cursor<'_>, kind: u32, key: &str) -> Result<i128, ModelError> {
    Ok(match kind {
        0 | 7 => i128::from(u8::from_le_bytes(cursor.array()?)),
        1 => i128::from(i8::from_le_bytes(cursor.array()?)),
        2 => i128::from(u16::from_le_bytes(cursor.array()?)),
        3 => i128::from(i16::from_le_bytes(cursor.array()?)),
        4 => i128::from(cursor.u32()?),
        5 => i128::from(i32::from_le_bytes(cursor.array()?)),
        10 => i128::from(cursor.u64()?),
        11 => i128::from(i64::from_le_bytes(cursor.array()?)),
        _ => return Err(cursor.bad(format!("key {key} has the unknown type {kind}"), DAMAGED)),
    })
}

fn read_list(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, ModelError> {
    let kind = cursor.u32()?;
    let element_bytes = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err(cursor.bad(format!("key {key} is a list of lists"), UNSUPPORTED)),
        _ => return Err(cursor.bad(format!("key {key} is a list of type {kind}"), DAMAGED)),
    };
    let len = cursor.count(key, limits::ARRAY_ELEMENTS_MAX)?;
    cursor.check_left(len * element_bytes, key)?;
    match kind {
        8 => (0..len).map(|_| cursor.text()).collect::<Result<_, _>>().map(Value::Texts),
        6 | 7 | 12 => {
            cursor.skip(len * element_bytes, key)?;
            Ok(Value::Other)
        }
        _ => {
            let narrow = |value: i128| i64::try_from(value).unwrap_or(-1);
            let integers = (0..len).map(|_| read_integer(cursor, kind, key).map(narrow));
            integers.collect::<Result<_, _>>().map(Value::Integers)
        }
    }
}

/// What the offsets of tensors are multiples of.
pub(super) fn alignment(
    cursor: &Cursor<'_>,
    metadata: &HashMap<String, Value>,
) -> Result<usize, ModelError> {
    const DEFAULT: usize = 32;
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT),
        Some(Value::Integer(value)) => usize::try_from(*value)
            .ok()
            .filter(|value| value.is_power_of_two() && *value <= limits::ALIGNMENT_MAX)
            .ok_or_else(|| cursor.bad(format!("alignment {value} is no alignment"), DAMAGED)),
        Some(_) => Err(cursor.bad("general.alignment is not a number", DAMAGED)),
    }
}
