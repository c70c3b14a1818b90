//! A JSON object from a file, its errors naming file and key.
//!
//! Knows no model; what the keys mean is its readers' business.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::error::advice::DAMAGED;
use crate::misspelt::misspelt;

/// An object, or a part of one that is an object itself.
#[derive(Debug, Clone)]
pub(crate) struct JsonFile {
    path: PathBuf,
    object: Map<String, Value>,
}

impl JsonFile {
    /// # Errors
    /// [`ModelError::BadFile`] naming `path` if this is not one JSON object.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ModelError> {
        let bad = |what: String| Err(ModelError::bad_file(path, what, DAMAGED));
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Self { path: path.to_owned(), object }),
            Ok(_) => bad("this is not a JSON object".to_owned()),
            Err(error) => bad(format!("this is not JSON: {error}")),
        }
    }

    /// What stands under `key`; null is as good as nothing.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// The text under `key`, if it is one.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.value(key).and_then(Value::as_str)
    }

    /// The object under `key`, if there is something.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] if it is not an object.
    pub(crate) fn part(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                Ok(Some(Self { path: self.path.clone(), object: object.clone() }))
            }
            Some(_) => Err(self.bad(format!("key {key} must be an object"), DAMAGED)),
        }
    }

    /// All keys and what stands under them.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.object.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there is such a key, be it null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Refuses an object that lacks one of these keys and has another that differs from it in one
    /// bit: a key that may be left out would not be missed.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming both.
    pub(crate) fn refuse_misspelt_keys<'a>(
        &self,
        optional: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ModelError> {
        let what = misspelt(self.object.keys().map(String::as_str), optional);
        what.map_or(Ok(()), |what| Err(self.bad(what, DAMAGED)))
    }

    /// An error that names this file.
    pub(crate) fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(&self.path, what, advice)
    }
}
