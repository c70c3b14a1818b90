//! Doors for fuzz targets (feature `fuzzing`): bytes in, nothing out. What they find is a panic,
//! or memory that the bytes do not warrant.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;

use crate::gguf::GgufFile;
use crate::mapped_file::MappedFile;
use crate::tensors::TensorSource;
use crate::tokenizer::{AddedTokens, Tokenizer};

/// The files of a folder, as the parts of one input are told apart.
const FOLDER_FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"];

/// Reads `bytes` as a GGUF file, and every tensor of it.
pub fn gguf_header(bytes: &[u8]) {
    if let Ok(file) = GgufFile::read_header(MappedFile::made_up(bytes.to_vec())) {
        black_box(file.weights_hash());
        for name in file.tensor_names() {
            let shape = file.tensor(name).map(|entry| entry.shape.clone()).unwrap_or_default();
            if let Ok(Some(matrix)) = file.view(name, &shape) {
                let inputs = shape.last().copied().unwrap_or_default();
                black_box((matrix.is_finite(), matrix.hole(inputs), matrix.values()));
            }
        }
    }
}

/// Reads `bytes` as a GGUF file's tokenizer or, where they do not begin as one, as the JSON files of
/// a folder, with a zero byte between them; and applies what comes of it to all of them.
///
/// # Panics
/// If plain text becomes a control token: that is a finding.
pub fn tokenizer_metadata(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let tokenizer = if bytes.starts_with(b"GGUF") {
        GgufFile::read_header(MappedFile::made_up(bytes.to_vec()))
            .and_then(|file| Tokenizer::from_gguf(&file))
    } else {
        let parts = text.split('\0').map(str::to_owned);
        let files: HashMap<_, _> = FOLDER_FILES.into_iter().zip(parts).collect();
        Tokenizer::from_files(Path::new(""), &move |name| Ok(files.get(name).cloned()))
    };
    let Ok(tokenizer) = tokenizer else { return };
    black_box(tokenizer.fingerprint(&["b"]));
    drop(tokenizer.encode(&tokenizer.with_bos(&text), AddedTokens::Parse));
    for id in tokenizer.encode_bytes(bytes) {
        assert!(!tokenizer.is_control(id), "plain text has become the control token {id}");
    }
    let most = u32::try_from(tokenizer.vocabulary_tokens()).unwrap_or(u32::MAX);
    for id in (0..most.min(1000)).chain([most, u32::MAX]) {
        black_box((tokenizer.token_bytes(id), tokenizer.kind(id), tokenizer.ends_text(id)));
    }
}
