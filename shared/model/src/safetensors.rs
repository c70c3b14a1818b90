//! The safetensors file format: a header that says where each tensor lies, and the tensors.
//!
//! Every length, shape and offset is checked against the file's size before anything is allocated
//! or read. Tensors stay in the mapped file. Knows no architecture.
//!
//! Format: <https://github.com/huggingface/safetensors#format>

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use relay_kernels::WeightFormat;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::error::ModelError;
use crate::error::advice::DAMAGED;
use crate::folder_files::FolderFiles;
use crate::mapped_file::{FileBytes, MappedFile};
use crate::weights::Matrix;

mod limits {
    /// Bytes of a header: a tensor takes about 150, and models have hundreds. What is read from it
    /// takes some times as much memory.
    pub(super) const HEADER_BYTES_MAX: usize = 1 << 22;
    /// Dimensions of a tensor.
    pub(super) const DIMENSIONS_MAX: usize = 4;
}

/// Bytes in front of the header, which say how long it is.
const LENGTH_BYTES: usize = 8;
/// The one name in a header that is not a tensor's.
const NOTES: &str = "__metadata__";

const FOREIGN: &str = "bring the folder of a model in safetensors files";
const UNSUPPORTED: &str = "use a folder whose weights are F32, F16 or BF16, or a GGUF file";

/// Where a tensor lies and what it is.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    pub(crate) format: WeightFormat,
    /// Slowest first: `[outputs, inputs]` for a matrix.
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: FileBytes,
}

/// An opened file.
#[derive(Debug)]
pub(crate) struct SafetensorsFile {
    file: Arc<MappedFile>,
    tensors: HashMap<String, StoredTensor>,
}

impl SafetensorsFile {
    /// Reads everything but the tensors' own bytes of one file.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the file cannot be read, [`ModelError::BadFile`] if it is damaged,
    /// foreign or holds a type of number that is not supported.
    pub(crate) fn open(folder: &FolderFiles, name: &str) -> Result<Self, ModelError> {
        Self::read_header(folder.map(name, FOREIGN)?)
    }

    pub(crate) fn read_header(file: Arc<MappedFile>) -> Result<Self, ModelError> {
        let header = Header::cut(&file)?;
        let mut tensors = HashMap::new();
        for (name, entry) in header.entries()?.0 {
            if name == NOTES {
                continue;
            }
            let tensor = header.locate(&name, &entry)?;
            if tensors.contains_key(&name) {
                return Err(header.bad(format!("tensor {name} occurs twice"), DAMAGED));
            }
            tensors.insert(name, tensor);
        }
        header.check_places(&tensors)?;
        Ok(Self { file, tensors })
    }

    /// All tensors by name, in no particular order.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (&str, &StoredTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// A tensor of the shape that the architecture demands, left where it lies, if it is there.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] if it is of another shape.
    pub(crate) fn view(&self, name: &str, shape: &[usize]) -> Result<Option<Matrix>, ModelError> {
        let Some(tensor) = self.tensor(name) else {
            return Ok(None);
        };
        let bytes = tensor.bytes.clone();
        let matrix = Matrix::of_shape(tensor.format, bytes, &tensor.shape, shape);
        matrix.map(Some).map_err(|what| self.bad(format!("tensor {name} {what}"), DAMAGED))
    }

    pub(crate) fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(self.file.path(), what, advice)
    }
}

/// The header, copied out of the file before anything in it is believed.
struct Header<'a> {
    file: &'a Arc<MappedFile>,
    json: Vec<u8>,
}

impl<'a> Header<'a> {
    fn cut(file: &'a Arc<MappedFile>) -> Result<Self, ModelError> {
        let bad = |what: String, advice| Err(ModelError::bad_file(file.path(), what, advice));
        if file.is_empty() {
            return bad("the file is empty".to_owned(), "bring it again");
        }
        let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
            return bad("this is not a safetensors file".to_owned(), FOREIGN);
        };
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > limits::HEADER_BYTES_MAX {
            let most = limits::HEADER_BYTES_MAX;
            let what = format!("a header of {length} bytes, where {most} is the most");
            return bad(what, "bring the file again, if it is a safetensors file at all");
        }
        match rest.get(..length) {
            Some(json) => Ok(Self { file, json: json.to_vec() }),
            None => bad("the file ends inside of its header".to_owned(), DAMAGED),
        }
    }

    fn entries(&self) -> Result<Entries, ModelError> {
        serde_json::from_slice(&self.json)
            .map_err(|error| self.bad(format!("the header is not a JSON object: {error}"), DAMAGED))
    }

    fn locate(&self, name: &str, entry: &Value) -> Result<StoredTensor, ModelError> {
        let format = self.format(name, entry)?;
        let shape = numbers(&entry["shape"]).filter(|shape| shape.len() <= limits::DIMENSIONS_MAX);
        let Some(shape) = shape else {
            let what = format!("tensor {name} has the impossible shape {}", entry["shape"]);
            return Err(self.bad(what, DAMAGED));
        };
        let elements = shape.iter().try_fold(1_usize, |product, len| product.checked_mul(*len));
        let expected = elements.and_then(|elements| format.bytes_of(elements));
        let range = self.range(&entry["data_offsets"]);
        match range.as_ref().map(ExactSizeIterator::len) {
            Some(bytes) if expected == Some(bytes) => {}
            Some(bytes) => {
                let what = format!("tensor {name} of shape {shape:?} has {bytes} bytes");
                return Err(self.bad(what, DAMAGED));
            }
            None => {
                let what =
                    format!("tensor {name} has the impossible place {}", entry["data_offsets"]);
                return Err(self.bad(what, DAMAGED));
            }
        }
        let bytes = range.and_then(|range| FileBytes::new(self.file, range)).ok_or_else(|| {
            let size = self.file.len();
            self.bad(format!("tensor {name} does not lie inside the file's {size} bytes"), DAMAGED)
        })?;
        Ok(StoredTensor { format, shape, bytes })
    }

    /// The format has tensors lie one behind the other, up to the file's end.
    fn check_places(&self, tensors: &HashMap<String, StoredTensor>) -> Result<(), ModelError> {
        let mut places: Vec<_> =
            tensors.iter().map(|(name, tensor)| (tensor.bytes.range(), name)).collect();
        places.sort_unstable_by_key(|(range, _)| (range.start, range.end));
        let (mut end, mut before) = (self.data_start(), "");
        for (range, name) in places {
            if range.start < end {
                return Err(self.bad(format!("tensors {before} and {name} overlap"), DAMAGED));
            }
            if range.start > end {
                let unused = range.start - end;
                let what = format!("{unused} unused bytes stand in front of tensor {name}");
                return Err(self.bad(what, DAMAGED));
            }
            (end, before) = (range.end, name);
        }
        match self.file.len() - end {
            0 => Ok(()),
            more => Err(self.bad(format!("{more} bytes follow its last tensor"), DAMAGED)),
        }
    }

    fn format(&self, name: &str, entry: &Value) -> Result<WeightFormat, ModelError> {
        match entry["dtype"].as_str() {
            Some("F32") => Ok(WeightFormat::F32),
            Some("F16") => Ok(WeightFormat::F16),
            Some("BF16") => Ok(WeightFormat::Bf16),
            Some(other) => {
                let what = format!("tensor {name} has the type {other}, which is not supported");
                Err(self.bad(what, UNSUPPORTED))
            }
            None => Err(self.bad(format!("tensor {name} has no type"), DAMAGED)),
        }
    }

    /// Offsets count from the header's end; this range from the file's beginning.
    fn range(&self, offsets: &Value) -> Option<Range<usize>> {
        let [start, end] = numbers(offsets)?[..] else { return None };
        let first = self.data_start();
        let range = first.checked_add(start)?..first.checked_add(end)?;
        (start <= end).then_some(range)
    }

    fn data_start(&self) -> usize {
        LENGTH_BYTES + self.json.len()
    }

    fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(self.file.path(), what, advice)
    }
}

/// A header's names and what it says of each, as they stand there: a map would keep one of two
/// entries of the same name.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

/// A list of lengths or offsets.
fn numbers(value: &Value) -> Option<Vec<usize>> {
    let number = |value: &Value| value.as_u64().and_then(|value| usize::try_from(value).ok());
    value.as_array()?.iter().map(number).collect()
}
