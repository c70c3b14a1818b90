//! Doors for fuzz targets (feature `fuzzing`): bytes in, nothing out. What they find is a panic,
//! or memory that the bytes do not warrant.

use crate::gguf::GgufFile;
use crate::mapped_file::MappedFile;

/// Reads `bytes` as a GGUF file, and every tensor of it.
pub fn gguf_header(bytes: &[u8]) {
    if let Ok(file) = GgufFile::read_header(MappedFile::made_up(bytes.to_vec())) {
        drop(file.identity_hash());
        for name in file.tensor_names() {
            let shape = file.tensor(name).map(|entry| entry.shape.clone()).unwrap_or_default();
            match shape[..] {
                [len] => drop(file.read_vector(name, [len])),
                [outputs, inputs] => drop(file.read_matrix(name, [outputs, inputs])),
                _ => {}
            }
        }
    }
}
