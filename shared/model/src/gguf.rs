//! The GGUF file format: what a file says about itself, and its tensors.
//!
//! Every count, length and offset is checked against the file's size before anything is allocated
//! or read. Knows no architecture.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::ggml_file::qtensor_from_ggml;

use crate::error::ModelError;
use crate::weights::{BlockFormat, Matrix};

mod limits {
    /// Metadata keys and tensors a file may declare.
    pub(super) const ENTRIES_MAX: u64 = 1 << 16;
    /// Elements of one metadata array: vocabularies and merges stay far below.
    pub(super) const ARRAY_ELEMENTS_MAX: u64 = 1 << 22;
    /// Bytes of one text.
    pub(super) const TEXT_BYTES_MAX: u64 = 1 << 24;
    /// Dimensions of a tensor.
    pub(super) const DIMENSIONS_MAX: u32 = 4;
    /// Alignment of tensors.
    pub(super) const ALIGNMENT_MAX: u64 = 1 << 20;
    /// Bytes of each tensor's beginning, middle and end that identify a file.
    pub(super) const SAMPLE_BYTES: u64 = 64;
}

const DAMAGED: &str = "the file is damaged or incomplete, bring it again";
const FOREIGN: &str = "give the path of a GGUF model file";
const UNSUPPORTED: &str = "use a file of a supported kind";

/// A metadata value, as far as models need it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Of any width; a truth value is 0 or 1.
    Integer(i128),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    /// An array no reader of ours wants.
    Other,
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone)]
pub(crate) struct TensorEntry {
    type_code: u32,
    /// Slowest first: `[outputs, inputs]` for a matrix.
    pub(crate) shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

/// An opened file.
#[derive(Debug)]
pub(crate) struct GgufFile {
    path: PathBuf,
    file: File,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorEntry>,
    data_start: u64,
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let failed =
            |action| move |source| ModelError::Io { path: path.to_owned(), action, source };
        let file = File::open(path).map_err(failed("open"))?;
        let status = file.metadata().map_err(failed("read"))?;
        if !status.is_file() {
            return Err(ModelError::bad_file(path, "not a file", FOREIGN));
        }
        let reader = BufReader::new(file);
        let mut header = Header { path, reader, at: 0, len: status.len() };
        let (tensor_count, key_count) = header.read_preamble()?;
        let metadata = header.read_metadata(key_count)?;
        let alignment = header.alignment(&metadata)?;
        let mut tensors = header.read_tensor_entries(tensor_count)?;
        let data_start = header.at.next_multiple_of(alignment);
        for (name, entry) in &mut tensors {
            header.check_tensor(name, entry, data_start, alignment)?;
        }
        let file = header.reader.into_inner();
        Ok(Self { path: path.to_owned(), file, metadata, tensors, data_start })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
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

    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// A tensor's values. `shape` is what the architecture demands.
    pub(crate) fn read_vector(
        &self,
        name: &str,
        shape: [usize; 1],
    ) -> Result<Vec<f32>, ModelError> {
        let matrix = self.read(name, &shape)?;
        Ok(matrix.view().values(&mut Vec::new()).to_vec())
    }

    /// A tensor as a matrix. `shape` is `[outputs, inputs]`, as the architecture demands.
    pub(crate) fn read_matrix(&self, name: &str, shape: [usize; 2]) -> Result<Matrix, ModelError> {
        self.read(name, &shape)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Matrix, ModelError> {
        let entry =
            self.tensors.get(name).cloned().ok_or_else(|| {
                self.bad(format!("tensor {name} is missing"), "use a complete file")
            })?;
        if entry.shape != shape {
            let what = format!("tensor {name} is {:?}, but should be {shape:?}", entry.shape);
            return Err(self.bad(what, DAMAGED));
        }
        let raw = self.read_bytes(&entry, 0, entry.bytes)?;
        let matrix = match block_format(entry.type_code) {
            Some(format) => Ok(Matrix::from_blocks(format, &raw)),
            None => dequantise(&entry, &raw).map(Matrix::Dense),
        };
        let matrix =
            matrix.map_err(|error| self.bad(format!("tensor {name}: {error}"), DAMAGED))?;
        if matrix.is_finite() {
            Ok(matrix)
        } else {
            Err(self.bad(format!("tensor {name} holds values that are not numbers"), DAMAGED))
        }
    }

    /// 8 bytes of BLAKE3 over names, types, shapes and a fixed sample of the bytes of all tensors,
    /// by name.
    pub(crate) fn identity_hash(&self) -> Result<[u8; 8], ModelError> {
        let mut names: Vec<String> = self.tensors.keys().cloned().collect();
        names.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"relay.v1.model");
        for name in names {
            let entry = self.tensors[&name].clone();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&entry.type_code.to_le_bytes());
            hasher.update(&(entry.shape.len() as u64).to_le_bytes());
            entry.shape.iter().for_each(|len| {
                hasher.update(&(*len as u64).to_le_bytes());
            });
            let sample = limits::SAMPLE_BYTES.min(entry.bytes);
            for start in [0, (entry.bytes - sample) / 2, entry.bytes - sample] {
                hasher.update(&self.read_bytes(&entry, start, sample)?);
            }
        }
        let mut hash = [0; 8];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Ok(hash)
    }

    pub(crate) fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(&self.path, what, advice)
    }

    fn read_bytes(&self, entry: &TensorEntry, start: u64, len: u64) -> Result<Vec<u8>, ModelError> {
        let failed = |source| ModelError::Io { path: self.path.clone(), action: "read", source };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let at = SeekFrom::Start(self.data_start + entry.offset + start);
        let mut file = &self.file;
        let mut bytes = vec![0; len];
        file.seek(at).and_then(|_| file.read_exact(&mut bytes)).map_err(failed)?;
        Ok(bytes)
    }
}

/// The part of a file before its tensors, read front to back.
struct Header<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    at: u64,
    len: u64,
}

impl Header<'_> {
    fn read_preamble(&mut self) -> Result<(u64, u64), ModelError> {
        if self.len == 0 {
            return Err(self.bad("the file is empty", "bring it again"));
        }
        let magic = self.read_array::<4>().unwrap_or_default();
        if &magic != b"GGUF" {
            return Err(self.bad("this is not a GGUF file", FOREIGN));
        }
        let version = u32::from_le_bytes(self.read_array()?);
        if !matches!(version, 2 | 3) {
            let what = format!("GGUF version {version} is not supported (2 and 3 are)");
            return Err(self.bad(what, "convert the model again with a current converter"));
        }
        let tensors = self.read_count("tensors", limits::ENTRIES_MAX)?;
        let keys = self.read_count("metadata keys", limits::ENTRIES_MAX)?;
        Ok((tensors, keys))
    }

    fn read_metadata(&mut self, count: u64) -> Result<HashMap<String, Value>, ModelError> {
        let mut metadata = HashMap::new();
        for _ in 0..count {
            let key = self.read_text()?;
            let kind = u32::from_le_bytes(self.read_array()?);
            let value = self.read_value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.bad(format!("key {key} occurs twice"), DAMAGED));
            }
        }
        Ok(metadata)
    }

    fn read_value(&mut self, kind: u32, key: &str) -> Result<Value, ModelError> {
        Ok(match kind {
            6 => Value::Float(f64::from(f32::from_le_bytes(self.read_array()?))),
            12 => Value::Float(f64::from_le_bytes(self.read_array()?)),
            8 => Value::Text(self.read_text()?),
            9 => self.read_list(key)?,
            _ => Value::Integer(self.read_integer(kind, key)?),
        })
    }

    fn read_integer(&mut self, kind: u32, key: &str) -> Result<i128, ModelError> {
        Ok(match kind {
            0 | 7 => i128::from(u8::from_le_bytes(self.read_array()?)),
            1 => i128::from(i8::from_le_bytes(self.read_array()?)),
            2 => i128::from(u16::from_le_bytes(self.read_array()?)),
            3 => i128::from(i16::from_le_bytes(self.read_array()?)),
            4 => i128::from(u32::from_le_bytes(self.read_array()?)),
            5 => i128::from(i32::from_le_bytes(self.read_array()?)),
            10 => i128::from(u64::from_le_bytes(self.read_array()?)),
            11 => i128::from(i64::from_le_bytes(self.read_array()?)),
            _ => return Err(self.bad(format!("key {key} has the unknown type {kind}"), DAMAGED)),
        })
    }

    fn read_list(&mut self, key: &str) -> Result<Value, ModelError> {
        let kind = u32::from_le_bytes(self.read_array()?);
        let element_bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(self.bad(format!("key {key} is a list of type {kind}"), UNSUPPORTED)),
        };
        let len = self.read_count(key, limits::ARRAY_ELEMENTS_MAX)?;
        self.check_left(len * element_bytes, key)?;
        match kind {
            8 => (0..len).map(|_| self.read_text()).collect::<Result<_, _>>().map(Value::Texts),
            6 | 7 | 12 => {
                (0..len * element_bytes).try_for_each(|_| self.read_array::<1>().map(drop))?;
                Ok(Value::Other)
            }
            _ => {
                let integer = |_| self.read_integer(kind, key);
                let integers: Vec<i128> = (0..len).map(integer).collect::<Result<_, _>>()?;
                let narrow = integers.into_iter().map(|value| i64::try_from(value).unwrap_or(-1));
                Ok(Value::Integers(narrow.collect()))
            }
        }
    }

    fn read_tensor_entries(
        &mut self,
        count: u64,
    ) -> Result<HashMap<String, TensorEntry>, ModelError> {
        let mut tensors = HashMap::new();
        for _ in 0..count {
            let name = self.read_text()?;
            let dimensions = u32::from_le_bytes(self.read_array()?);
            if dimensions > limits::DIMENSIONS_MAX {
                let what = format!("tensor {name} has {dimensions} dimensions");
                return Err(self.bad(what, DAMAGED));
            }
            let mut shape = Vec::new();
            for _ in 0..dimensions {
                let len = u64::from_le_bytes(self.read_array()?);
                shape.insert(0, usize::try_from(len).unwrap_or(usize::MAX));
            }
            let type_code = u32::from_le_bytes(self.read_array()?);
            let offset = u64::from_le_bytes(self.read_array()?);
            let entry = TensorEntry { type_code, shape, offset, bytes: 0 };
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(self.bad(format!("tensor {name} occurs twice"), DAMAGED));
            }
        }
        Ok(tensors)
    }

    fn alignment(&self, metadata: &HashMap<String, Value>) -> Result<u64, ModelError> {
        match metadata.get("general.alignment") {
            None => Ok(32),
            Some(Value::Integer(value)) => u64::try_from(*value)
                .ok()
                .filter(|value| value.is_power_of_two() && *value <= limits::ALIGNMENT_MAX)
                .ok_or_else(|| self.bad(format!("alignment {value} is no alignment"), DAMAGED)),
            Some(_) => Err(self.bad("general.alignment is not a number", DAMAGED)),
        }
    }

    /// Fills the tensor's size in, and refuses one that is not wholly inside the file.
    fn check_tensor(
        &self,
        name: &str,
        entry: &mut TensorEntry,
        data_start: u64,
        alignment: u64,
    ) -> Result<(), ModelError> {
        let Some(dtype) = dtype(entry.type_code) else {
            let what = format!(
                "tensor {name} has the quantisation {}, which is not supported",
                type_name(entry.type_code)
            );
            return Err(self.bad(what, "use a file quantised as Q4_0, Q4_1, Q8_0 or Q4_K"));
        };
        let elements =
            entry.shape.iter().try_fold(1_usize, |product, &len| product.checked_mul(len));
        let row = entry.shape.last().copied().unwrap_or(0);
        let blocks = elements.filter(|_| row > 0 && row.is_multiple_of(dtype.block_size()));
        let bytes = blocks.map(|count| count / dtype.block_size());
        let bytes = bytes.and_then(|count| (count as u64).checked_mul(dtype.type_size() as u64));
        let end = bytes.and_then(|bytes| {
            data_start.checked_add(entry.offset).and_then(|start| start.checked_add(bytes))
        });
        match (bytes, end) {
            (Some(bytes), Some(end))
                if end <= self.len && entry.offset.is_multiple_of(alignment) =>
            {
                entry.bytes = bytes;
                Ok(())
            }
            (None, _) => {
                let what = format!("tensor {name} has the impossible shape {:?}", entry.shape);
                Err(self.bad(what, DAMAGED))
            }
            _ => {
                let what =
                    format!("tensor {name} does not lie inside the file's {} bytes", self.len);
                Err(self.bad(what, DAMAGED))
            }
        }
    }

    fn read_text(&mut self) -> Result<String, ModelError> {
        let len = u64::from_le_bytes(self.read_array()?);
        if len > limits::TEXT_BYTES_MAX {
            return Err(self.bad(format!("a text of {len} bytes at byte {}", self.at), DAMAGED));
        }
        self.check_left(len, "a text")?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.read_into(&mut bytes)?;
        String::from_utf8(bytes)
            .map_err(|_| self.bad(format!("a text before byte {} is not UTF-8", self.at), DAMAGED))
    }

    fn read_count(&mut self, what: &str, most: u64) -> Result<u64, ModelError> {
        let count = u64::from_le_bytes(self.read_array()?);
        if count > most {
            return Err(self.bad(format!("{what}: {count}, where {most} is the most"), DAMAGED));
        }
        Ok(count)
    }

    fn check_left(&self, bytes: u64, what: &str) -> Result<(), ModelError> {
        if bytes > self.len.saturating_sub(self.at) {
            let what = format!("the file ends inside of {what}, at byte {}", self.at);
            return Err(self.bad(what, DAMAGED));
        }
        Ok(())
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&mut self, bytes: &mut [u8]) -> Result<(), ModelError> {
        self.check_left(bytes.len() as u64, "its header")?;
        self.reader.read_exact(bytes).map_err(|source| ModelError::Io {
            path: self.path.to_owned(),
            action: "read",
            source,
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(self.path, what, advice)
    }
}

fn dequantise(entry: &TensorEntry, raw: &[u8]) -> candle_core::Result<Vec<f32>> {
    let Some(dtype) = dtype(entry.type_code) else {
        candle_core::bail!("unknown type {}", entry.type_code)
    };
    let tensor = qtensor_from_ggml(dtype, raw, entry.shape.clone(), &Device::Cpu)?;
    tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
}

/// The types that stay in blocks.
fn block_format(code: u32) -> Option<BlockFormat> {
    match code {
        2 => Some(BlockFormat::Q4_0),
        3 => Some(BlockFormat::Q4_1),
        8 => Some(BlockFormat::Q8_0),
        _ => None,
    }
}

/// The types that weights are stored in and we can read.
fn dtype(code: u32) -> Option<GgmlDType> {
    Some(match code {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

/// Names of types we cannot read, for the error that says so.
fn type_name(code: u32) -> String {
    let name = match code {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "integers",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("number {code}"),
    };
    name.to_owned()
}
