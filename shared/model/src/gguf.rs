//! The GGUF file format: what a file says about itself, and its tensors.
//!
//! Every count, length and offset is checked against the file's size before anything is allocated
//! or read. Tensors stay in the mapped file. Knows no architecture.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

mod cursor;
mod metadata;
mod tensor_table;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::ModelError;
use crate::error::advice::DAMAGED;
use crate::mapped_file::{FileBytes, MappedFile};
use crate::weights::Matrix;
use cursor::Cursor;
use metadata::ALIGNMENT_KEY;
pub(crate) use metadata::Value;
use tensor_table::DataSpace;
pub(crate) use tensor_table::{TensorEntry, type_code};

mod limits {
    /// Metadata keys and tensors a file may declare.
    pub(super) const ENTRIES_MAX: u64 = 1 << 16;
}

/// What says that a model is cut into several files.
const SPLIT_KEY: &str = "split.count";
const FOREIGN: &str = "give the path of a GGUF model file";
const UNSUPPORTED: &str = "use a file of a supported kind";

/// An opened file.
#[derive(Debug)]
pub(crate) struct GgufFile {
    file: Arc<MappedFile>,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorEntry>,
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        Self::read_header(MappedFile::open(path, FOREIGN)?)
    }

    /// Reads everything but the tensors' own bytes.
    pub(crate) fn read_header(file: Arc<MappedFile>) -> Result<Self, ModelError> {
        let mut cursor = Cursor::new(file.path(), &file);
        let (tensor_count, key_count) = read_preamble(&mut cursor, file.len())?;
        let metadata = metadata::read(&mut cursor, key_count)?;
        metadata::refuse_misspelt_keys(cursor.path(), &metadata, [ALIGNMENT_KEY, SPLIT_KEY])?;
        refuse_parts(&cursor, &metadata)?;
        let alignment = metadata::alignment(&cursor, &metadata)?;
        let declared = tensor_table::read(&mut cursor, tensor_count)?;
        let start = cursor.at().next_multiple_of(alignment);
        let space = DataSpace { start, alignment, file_bytes: file.len() };
        let tensors = tensor_table::locate(&cursor, declared, space)?;
        let header = Self { file, metadata, tensors };
        header.file.release();
        Ok(header)
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The names of all keys, in no particular order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// Refuses a file that lacks one of these keys and has another that differs from it in one bit:
    /// a key that may be left out would not be missed.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] naming both.
    pub(crate) fn refuse_misspelt_keys<'a>(
        &self,
        optional: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), ModelError> {
        metadata::refuse_misspelt_keys(self.path(), &self.metadata, optional)
    }

    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// A tensor of the shape that the architecture demands, left where it lies, if it is there.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] if it is of another shape.
    pub(crate) fn view(&self, name: &str, shape: &[usize]) -> Result<Option<Matrix>, ModelError> {
        let Some(entry) = self.tensors.get(name) else {
            return Ok(None);
        };
        let Some(bytes) = FileBytes::new(&self.file, entry.range.clone()) else {
            return Err(self.bad(format!("tensor {name} lies outside the file"), DAMAGED));
        };
        let matrix = Matrix::of_shape(entry.format, bytes, &entry.shape, shape);
        matrix.map(Some).map_err(|what| self.bad(format!("tensor {name} {what}"), DAMAGED))
    }

    /// All tensors by name, in no particular order, and their bytes.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &TensorEntry, &[u8])> {
        let bytes = |entry: &TensorEntry| &self.file[entry.range.clone()];
        self.tensors.iter().map(move |(name, entry)| (name.as_str(), entry, bytes(entry)))
    }

    pub(crate) fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(self.path(), what, advice)
    }
}

/// How many tensors and metadata keys follow.
fn read_preamble(cursor: &mut Cursor<'_>, file_bytes: usize) -> Result<(u64, u64), ModelError> {
    if file_bytes == 0 {
        return Err(cursor.bad("the file is empty", "bring it again"));
    }
    if &cursor.array::<4>().unwrap_or_default() != b"GGUF" {
        return Err(cursor.bad("this is not a GGUF file", FOREIGN));
    }
    let version = cursor.u32()?;
    if matches!(version.swap_bytes(), 1..=3) {
        let what = "this GGUF file is for big-endian machines";
        return Err(cursor.bad(what, "use the little-endian file of the same model"));
    }
    if !matches!(version, 2 | 3) {
        let what = format!("GGUF version {version} is not supported (2 and 3 are)");
        return Err(cursor.bad(what, "convert the model again with a current converter"));
    }
    let tensors = cursor.count("tensors", limits::ENTRIES_MAX)?;
    let keys = cursor.count("metadata keys", limits::ENTRIES_MAX)?;
    Ok((tensors, keys))
}

/// A model may be cut into several files, of which this is one.
fn refuse_parts(cursor: &Cursor<'_>, metadata: &HashMap<String, Value>) -> Result<(), ModelError> {
    match metadata.get(SPLIT_KEY) {
        None | Some(Value::Integer(0 | 1)) => Ok(()),
        Some(Value::Integer(count)) => {
            let what = format!("this is one of {count} files that make up the model");
            Err(cursor.bad(what, "join them first, for instance with llama-gguf-split --merge"))
        }
        Some(_) => Err(cursor.bad(format!("{SPLIT_KEY} is not a number"), DAMAGED)),
    }
}
