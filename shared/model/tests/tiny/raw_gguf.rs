//! Writes GGUF files byte by byte, so that tests can write what no honest writer would.

use candle_core::quantized::gguf_file::Value;

use crate::tiny_file::{Metadata, Tensors};

/// A file as it is about to be written.
pub(crate) struct RawFile {
    pub(crate) version: u32,
    /// Keys, the numbers of their types, and their values' bytes.
    pub(crate) keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<RawTensor>,
    /// What the data begin at a multiple of.
    pub(crate) alignment: usize,
}

pub(crate) struct RawTensor {
    pub(crate) name: String,
    /// Fastest first, as files have it.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) type_code: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

impl RawFile {
    /// The tiny model, its tensors as F32, at multiples of `alignment`.
    pub(crate) fn tiny(metadata: &Metadata, tensors: &Tensors, alignment: usize) -> Self {
        let mut offset = 0;
        let raw = |(name, shape, values): &(String, Vec<usize>, Vec<f32>)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let start = offset;
            offset += bytes.len().next_multiple_of(alignment) as u64;
            let dimensions = shape.iter().rev().map(|&len| len as u64).collect();
            RawTensor { name: name.clone(), dimensions, type_code: 0, offset: start, bytes }
        };
        let tensors = tensors.iter().map(raw).collect();
        let pair = |(key, value): &(String, Value)| {
            let (kind, bytes) = value_bytes(value);
            (key.as_bytes().to_vec(), kind, bytes)
        };
        Self { version: 3, keys: metadata.iter().map(pair).collect(), tensors, alignment }
    }

    pub(crate) fn tensor_mut(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            out.extend(text_bytes(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for tensor in &self.tensors {
            out.extend(text_bytes(tensor.name.as_bytes()));
            out.extend(u32::try_from(tensor.dimensions.len()).unwrap().to_le_bytes());
            tensor.dimensions.iter().for_each(|len| out.extend(len.to_le_bytes()));
            out.extend(tensor.type_code.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        for tensor in &self.tensors {
            out.extend(&tensor.bytes);
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }
}

pub(crate) fn text_bytes(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// The bytes of a list: the number of its elements' type, their number, and they themselves.
pub(crate) fn list_bytes(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), &len.to_le_bytes()[..], elements].concat()
}

fn value_bytes(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::U32(value) => (4, value.to_le_bytes().to_vec()),
        Value::I32(value) => (5, value.to_le_bytes().to_vec()),
        Value::F32(value) => (6, value.to_le_bytes().to_vec()),
        Value::String(text) => (8, text_bytes(text.as_bytes())),
        Value::Array(values) => {
            let kind = values.first().map_or(8, |first| value_bytes(first).0);
            let elements: Vec<u8> = values.iter().flat_map(|value| value_bytes(value).1).collect();
            (9, list_bytes(kind, values.len() as u64, &elements))
        }
        other => unreachable!("the tiny model has no {other:?}"),
    }
}
