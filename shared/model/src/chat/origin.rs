//! Where a model's chat template stands: in a GGUF file's metadata, or in one of the files of a
//! folder. Of named variants the one for tools is taken along; others are for purposes not served
//! here.
//!
//! Names: the metadata keys of llama.cpp's converter, and the files that transformers writes.

use std::path::Path;

use serde_json::Value;

use super::ChatTemplate;
use super::engine::TEMPLATE_BYTES_MAX;
use crate::error::ModelError;
use crate::folder_files::FolderFiles;
use crate::gguf::GgufFile;
use crate::tokenizer::Tokenizer;

const GGUF_KEY: &str = "tokenizer.chat_template";
const OWN_FILE: &str = "chat_template.jinja";
const TOOL_FILE: &str = "additional_chat_templates/tool_use.jinja";
/// The JSON files that may hold a template, the first before the second.
const JSON_FILES: [&str; 2] = ["chat_template.json", "tokenizer_config.json"];
const JSON_KEY: &str = "chat_template";
/// Names of variants.
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

/// Templates before they are compiled.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sources {
    default: Option<String>,
    tool_use: Option<String>,
}

impl ChatTemplate {
    /// The template of a GGUF file, if there is one; it may have a [`ChatTemplate::fault`].
    ///
    /// # Errors
    /// [`ModelError::BadFile`] if its key is misspelt.
    pub(crate) fn from_gguf(
        file: &GgufFile,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ModelError> {
        let text = |key: &str| file.text(key).map(str::to_owned);
        let tool_key = format!("{GGUF_KEY}.{TOOL_USE}");
        file.refuse_misspelt_keys([GGUF_KEY, &tool_key])?;
        let tool_use = text(&tool_key);
        Sources { default: text(GGUF_KEY), tool_use }.compile(tokenizer, file.path())
    }

    /// The template of a folder, if there is one; it may have a [`ChatTemplate::fault`].
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::BadFile`] if a file that could hold it cannot be read.
    pub(crate) fn from_folder(
        folder: &FolderFiles,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ModelError> {
        Sources::read(folder)?.compile(tokenizer, folder.path())
    }
}

impl Sources {
    fn read(folder: &FolderFiles) -> Result<Self, ModelError> {
        if let Some(default) = read_text(folder, OWN_FILE)? {
            let tool_use = read_text(folder, TOOL_FILE)?;
            return Ok(Self { default: Some(default), tool_use });
        }
        for name in JSON_FILES {
            let file = folder.json(name)?;
            if let Some(value) = file.as_ref().and_then(|file| file.value(JSON_KEY)) {
                return Ok(Self::from_json(value));
            }
        }
        Ok(Self::default())
    }

    /// A text, or a list of variants with their names.
    fn from_json(value: &Value) -> Self {
        let variant = |wanted: &str| {
            let mut variants = value.as_array()?.iter();
            let found = variants.find(|variant| variant["name"] == wanted)?;
            found["template"].as_str().map(str::to_owned)
        };
        let text = value.as_str().map(str::to_owned);
        Self { default: text.or_else(|| variant(DEFAULT)), tool_use: variant(TOOL_USE) }
    }

    /// `path` is where they stand.
    fn compile(
        self,
        tokenizer: &Tokenizer,
        path: &Path,
    ) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(default) = self.default else {
            return Ok(None);
        };
        let template = ChatTemplate::new(&default, &tokenizer.bos_text(), &tokenizer.eos_text());
        let template = match self.tool_use {
            Some(source) => template.and_then(|template| template.with_tool_use(&source)),
            None => template,
        };
        match template {
            Err(ModelError::Template { what, .. }) => Ok(Some(ChatTemplate::broken(path, what))),
            compiled => compiled.map(|template| Some(template.of_file(path))),
        }
    }
}

fn read_text(folder: &FolderFiles, name: &str) -> Result<Option<String>, ModelError> {
    let advice = "bring the file again";
    folder.text(name, TEMPLATE_BYTES_MAX as u64, "template", advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Sources {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Sources::read(&FolderFiles::on_disk(folder.path())).unwrap()
    }

    #[test]
    fn a_folder_may_hold_its_template_in_several_places() {
        let config = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
        let variants = r#"{"chat_template": [{"name": "rag", "template": "r"},
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        let null = ("chat_template.json", r#"{"chat_template": null}"#);
        for (files, default, tool_use) in [
            (vec![], None, None),
            (vec![config], Some("config"), None),
            (vec![config, null], Some("config"), None),
            (vec![("tokenizer_config.json", variants)], Some("d"), Some("t")),
            (vec![config, ("chat_template.json", r#"{"chat_template": "j"}"#)], Some("j"), None),
            (vec![config, (OWN_FILE, "own")], Some("own"), None),
            (vec![config, (OWN_FILE, "own"), (TOOL_FILE, "tool")], Some("own"), Some("tool")),
        ] {
            let [default, tool_use] = [default, tool_use].map(|text| text.map(str::to_owned));
            assert_eq!(read(&files), Sources { default, tool_use }, "{files:?}");
        }
    }

    #[test]
    fn a_template_without_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(TEMPLATE_BYTES_MAX + 1);
        std::fs::write(folder.path().join(OWN_FILE), &long).unwrap();
        let error = Sources::read(&FolderFiles::on_disk(folder.path())).unwrap_err().to_string();
        assert!(error.contains(OWN_FILE), "{error}");
        // Wherever it stands.
        let error = ChatTemplate::new(&long, "", "").unwrap_err().to_string();
        assert!(error.contains("1048577 bytes, where 1048576 are the most"), "{error}");
    }
}
