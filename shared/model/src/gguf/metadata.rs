//! What a GGUF file says about its model: keys and values, as far as readers need them.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use super::UNSUPPORTED;
use super::cursor::Cursor;
use crate::error::ModelError;
use crate::error::advice::DAMAGED;
use crate::misspelt::misspelt;

mod limits {
    /// Elements of one array: vocabularies and merges stay far below.
    pub(super) const ARRAY_ELEMENTS_MAX: u64 = 1 << 22;
    /// Alignment of tensors.
    pub(super) const ALIGNMENT_MAX: usize = 1 << 20;
}

/// What the offsets of tensors are multiples of, where a file says so itself.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Of any width; a truth value is 0 or 1.
    Integer(i128),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
    Integers(Integers),
    /// An array no reader of ours wants.
    Other,
}

impl fmt::Display for Value {
    /// As a reader of an error would write it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(formatter),
            Self::Float(value) => value.fmt(formatter),
            Self::Text(text) => text.fmt(formatter),
            Self::Texts(_) | Self::Integers(_) | Self::Other => formatter.write_str("a list"),
        }
    }
}

/// A list of whole numbers, as narrow as the file has them.
#[derive(Debug, Clone)]
pub(crate) struct Integers {
    kind: u32,
    element_bytes: usize,
    bytes: Box<[u8]>,
}

impl Integers {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.element_bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = i128> {
        self.bytes.chunks_exact(self.element_bytes).map(|bytes| integer(self.kind, bytes))
    }
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
        _ => {
            let Some(bytes) = element_bytes(kind) else {
                return Err(cursor.bad(format!("key {key} has the unknown type {kind}"), DAMAGED));
            };
            Value::Integer(integer(kind, cursor.slice(bytes as u64, key)?))
        }
    })
}

/// Bytes of one number or truth value of this type.
fn element_bytes(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The whole number of this type, at most 8 bytes of it.
fn integer(kind: u32, bytes: &[u8]) -> i128 {
    let is_signed = matches!(kind, 1 | 3 | 5 | 11);
    let is_negative = is_signed && bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut wide = [if is_negative { 0xFF } else { 0 }; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    i128::from_le_bytes(wide)
}

fn read_list(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, ModelError> {
    /// A text's length, which may be all there is of it.
    const TEXT_BYTES_MIN: usize = 8;
    let kind = cursor.u32()?;
    let element_bytes = match (kind, element_bytes(kind)) {
        (8, _) => TEXT_BYTES_MIN,
        (_, Some(bytes)) => bytes,
        (9, _) => return Err(cursor.bad(format!("key {key} is a list of lists"), UNSUPPORTED)),
        _ => return Err(cursor.bad(format!("key {key} is a list of type {kind}"), DAMAGED)),
    };
    let len = cursor.count(key, limits::ARRAY_ELEMENTS_MAX)?;
    let bytes = len * element_bytes as u64;
    cursor.check_left(bytes, key)?;
    match kind {
        8 => (0..len).map(|_| cursor.text()).collect::<Result<_, _>>().map(Value::Texts),
        6 | 7 | 12 => cursor.slice(bytes, key).map(|_| Value::Other),
        _ => {
            let bytes = cursor.slice(bytes, key)?.into();
            Ok(Value::Integers(Integers { kind, element_bytes, bytes }))
        }
    }
}

/// See [`GgufFile::refuse_misspelt_keys`](super::GgufFile::refuse_misspelt_keys).
pub(super) fn refuse_misspelt_keys<'a>(
    path: &Path,
    metadata: &HashMap<String, Value>,
    optional: impl IntoIterator<Item = &'a str>,
) -> Result<(), ModelError> {
    let what = misspelt(metadata.keys().map(String::as_str), optional);
    what.map_or(Ok(()), |what| Err(ModelError::bad_file(path, what, DAMAGED)))
}

/// What the offsets of tensors are multiples of.
pub(super) fn alignment(
    cursor: &Cursor<'_>,
    metadata: &HashMap<String, Value>,
) -> Result<usize, ModelError> {
    const DEFAULT: usize = 32;
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT),
        Some(Value::Integer(value)) => usize::try_from(*value)
            .ok()
            .filter(|value| value.is_power_of_two() && *value <= limits::ALIGNMENT_MAX)
            .ok_or_else(|| cursor.bad(format!("alignment {value} is no alignment"), DAMAGED)),
        Some(_) => Err(cursor.bad(format!("{ALIGNMENT_KEY} is not a number"), DAMAGED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_of_every_width_keep_their_sign() {
        for (kind, bytes, expected) in [
            (0, &[0xFE][..], 254),
            (7, &[1], 1),
            (1, &[0xFE], -2),
            (2, &[0xFE, 0xFF], 65_534),
            (3, &[0xFE, 0xFF], -2),
            (4, &[0xFF; 4], 4_294_967_295),
            (5, &[0, 0, 0, 0x80], -2_147_483_648),
            (10, &[0xFF; 8], i128::from(u64::MAX)),
            (11, &[0xFF; 8], -1),
            (11, &[1, 0, 0, 0, 0, 0, 0, 0x70], 0x7000_0000_0000_0001),
        ] {
            assert_eq!(integer(kind, bytes), expected, "type {kind}");
            let bytes = [bytes, bytes].concat().into();
            let element_bytes = element_bytes(kind).unwrap();
            let list = Integers { kind, element_bytes, bytes };
            assert_eq!((list.len(), list.iter().collect::<Vec<_>>()), (2, vec![expected; 2]));
        }
    }
}
