//! The tiny pair that every program carries: a small model that has learned when to call, and the
//! large one it calls. What they are and are not stands in `assets/tiny-pair/MODEL_CARD.md`.

use std::path::Path;

use crate::folder_files::{EmbeddedFolder, ModelSource};

/// The word for a model of the tiny pair where the path of one is expected. A file of this name is
/// `./embedded`.
pub const EMBEDDED: &str = "embedded";

macro_rules! embedded_folder {
    ($name:literal, $folder:literal: $($file:literal),+) => {
        EmbeddedFolder {
            name: $name,
            files: &[$((
                $file,
                include_bytes!(concat!("../assets/tiny-pair/", $folder, "/", $file)),
            )),+],
        }
    };
}

/// The small model.
pub static TINY_SLM: EmbeddedFolder = embedded_folder!(
    "relay-tiny-slm", "slm": "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json"
);

/// The large one.
pub static TINY_LLM: EmbeddedFolder = embedded_folder!(
    "relay-tiny-llm", "llm": "config.json", "generation_config.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json"
);

impl ModelSource {
    /// The model at a path, or, where that is [`EMBEDDED`], this one.
    pub fn named(path: &Path, embedded: &'static EmbeddedFolder) -> Self {
        if path == Path::new(EMBEDDED) { Self::Embedded(embedded) } else { path.into() }
    }
}
