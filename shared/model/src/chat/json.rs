//! JSON as it was written: objects keep the order of their keys, since a tool's description reads,
//! and is tokenised, in that order. Knows nothing of conversations.

use minijinja::Value;
use minijinja::value::{DynObject, Serde, ValueKind};
use serde::{Deserialize, Deserializer, Serialize};

/// A JSON value. Read it with any deserialiser, or make it of what serialises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json(pub(super) Value);

impl Json {
    /// What `value` serialises to.
    pub fn of(value: &impl Serialize) -> Self {
        Self(Value::from(Serde(value)))
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        self.0.as_str()
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }

    /// The same value with each text in it changed, keys of objects among them.
    pub(super) fn map_texts(&self, change: &mut impl FnMut(&str) -> String) -> Self {
        Self(map_texts(&self.0, change))
    }

    /// Fields in their order; `None` if it is no object.
    pub(super) fn into_fields(self) -> Option<Vec<(String, Self)>> {
        if self.0.kind() != ValueKind::Map {
            return None;
        }
        let pairs = self.0.as_object()?.try_iter_pairs()?;
        Some(pairs.map(|(key, value)| (key.to_string(), Self(value))).collect())
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self(Value::from(text))
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self(Value::from(text))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }
}

fn map_texts(value: &Value, change: &mut impl FnMut(&str) -> String) -> Value {
    let object = value.as_object();
    match value.kind() {
        ValueKind::String => Value::from(change(value.as_str().unwrap_or_default())),
        ValueKind::Seq => {
            let items = object.and_then(DynObject::try_iter).into_iter().flatten();
            items.map(|item| map_texts(&item, change)).collect()
        }
        ValueKind::Map => {
            let pairs = object.and_then(DynObject::try_iter_pairs).into_iter().flatten();
            Value::from_pairs(
                pairs.map(|(key, value)| (map_texts(&key, change), map_texts(&value, change))),
            )
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_all_texts_are_reached() {
        let written = r#"{"z":["a",{"k":"b"}],"a":1,"m":null,"f":1.5}"#;
        let json: Json = serde_json::from_str(written).unwrap();
        let changed = json.map_texts(&mut |text| format!("{text}!"));
        let fields = changed.into_fields().unwrap();
        let keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["z!", "a!", "m!", "f!"]);
        assert_eq!(fields[0].1.0.to_string(), "['a!', {'k!': 'b!'}]");
        assert!(fields[2].1.is_null());
        assert_eq!(Json::from("x").into_fields(), None);
    }
}
