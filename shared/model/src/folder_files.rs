//! The files of a model's folder, wherever they lie: on disk, or inside of the program. Readers
//! name a file and get the same bytes and the same errors from both. Knows no file's meaning.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::ModelError;
use crate::error::advice::DAMAGED;
use crate::json_file::JsonFile;
use crate::mapped_file::MappedFile;
use crate::regular_file::{if_there, read_bounded};

mod limits {
    /// Bytes of a JSON file, the vocabulary apart: the largest, an index of shards, has a line for
    /// each tensor. What is read from it takes some times as much memory.
    pub(super) const JSON_BYTES_MAX: u64 = 1 << 22;
}

/// A model's folder whose files are part of the program.
#[derive(Debug)]
pub struct EmbeddedFolder {
    /// The model's name.
    pub name: &'static str,
    /// Its files: names as in a folder on disk, and their bytes.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A GGUF file, or a folder as Hugging Face publishes them.
    Path(PathBuf),
    /// A folder inside of the program.
    Embedded(&'static EmbeddedFolder),
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelSource {
    fn from(path: &P) -> Self {
        Self::Path(path.as_ref().to_owned())
    }
}

/// A folder's files.
#[derive(Debug, Clone)]
pub(crate) struct FolderFiles {
    /// The folder, as errors name it.
    path: PathBuf,
    embedded: Option<&'static EmbeddedFolder>,
}

impl FolderFiles {
    pub(crate) fn on_disk(path: &Path) -> Self {
        Self { path: path.to_owned(), embedded: None }
    }

    pub(crate) fn embedded(folder: &'static EmbeddedFolder) -> Self {
        Self { path: Path::new("embedded").join(folder.name), embedded: Some(folder) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// The model's name: the folder's own, as it was written; `.` and `..` have the name of the
    /// folder that they lead to.
    pub(crate) fn name(&self) -> String {
        let path = &self.path;
        let real = || path.canonicalize().ok()?.file_name().map(OsStr::to_owned);
        let name = path.file_name().map(OsStr::to_owned).or_else(real);
        name.as_deref().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// All of a text of at most `bytes_max` bytes, if it is there. `kind` is what it is, for the
    /// error.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system refuses, [`ModelError::BadFile`] if it is longer, not UTF-8,
    /// or not a regular file.
    pub(crate) fn text(
        &self,
        name: &str,
        bytes_max: u64,
        kind: &str,
        advice: &'static str,
    ) -> Result<Option<String>, ModelError> {
        let Some(bytes) = self.bytes(name, bytes_max, kind, advice)? else {
            return Ok(None);
        };
        let not_text =
            |_| ModelError::bad_file(&self.path.join(name), "the file is not UTF-8", advice);
        String::from_utf8(bytes).map(Some).map_err(not_text)
    }

    /// The text of a JSON file, if it is there.
    ///
    /// # Errors
    /// As [`FolderFiles::text`].
    pub(crate) fn json_text(&self, name: &str) -> Result<Option<String>, ModelError> {
        self.text(name, limits::JSON_BYTES_MAX, "JSON", DAMAGED)
    }

    /// A JSON object, if it is there.
    ///
    /// # Errors
    /// As [`FolderFiles::text`], and [`ModelError::BadFile`] if it is no JSON object.
    pub(crate) fn json(&self, name: &str) -> Result<Option<JsonFile>, ModelError> {
        let text = self.json_text(name)?;
        text.map(|text| JsonFile::parse(&self.path.join(name), &text)).transpose()
    }

    /// A file that is looked into and not read.
    ///
    /// # Errors
    /// [`ModelError::Io`] if the system refuses or it is not there, [`ModelError::BadFile`] if it is
    /// not a regular file; `advice` then says what is wanted.
    pub(crate) fn map(
        &self,
        name: &str,
        advice: &'static str,
    ) -> Result<Arc<MappedFile>, ModelError> {
        let path = self.path.join(name);
        let Some(folder) = self.embedded else {
            return MappedFile::open(&path, advice);
        };
        match folder.file(name) {
            Some(bytes) => Ok(MappedFile::embedded(path, bytes)),
            None => {
                Err(ModelError::Io { path, action: "open", source: ErrorKind::NotFound.into() })
            }
        }
    }

    fn bytes(
        &self,
        name: &str,
        bytes_max: u64,
        kind: &str,
        advice: &'static str,
    ) -> Result<Option<Vec<u8>>, ModelError> {
        match self.embedded {
            Some(folder) => Ok(folder.file(name).map(<[u8]>::to_vec)),
            None => if_there(read_bounded(&self.path.join(name), bytes_max, kind, advice)),
        }
    }
}

impl EmbeddedFolder {
    fn file(&self, name: &str) -> Option<&'static [u8]> {
        self.files.iter().find(|file| file.0 == name).map(|file| file.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FOLDER: EmbeddedFolder =
        EmbeddedFolder { name: "inside", files: &[("a.json", br#"{"b": 1}"#), ("c.txt", b"\xff")] };

    #[test]
    fn both_kinds_of_folder_give_the_same() {
        let on_disk = tempfile::tempdir().unwrap();
        for (name, bytes) in FOLDER.files {
            std::fs::write(on_disk.path().join(name), bytes).unwrap();
        }
        for files in [FolderFiles::on_disk(on_disk.path()), FolderFiles::embedded(&FOLDER)] {
            let json = files.json("a.json").unwrap().unwrap();
            assert_eq!(json.value("b"), Some(&1.into()));
            assert!(files.json("b.json").unwrap().is_none());
            assert_eq!(files.text("a.json", 99, "", "").unwrap().unwrap(), r#"{"b": 1}"#);
            let error = files.text("c.txt", 99, "", "bring it").unwrap_err().to_string();
            assert!(error.ends_with("c.txt: the file is not UTF-8; bring it"), "{error}");
            assert_eq!(&**files.map("c.txt", "").unwrap(), b"\xff");
            assert!(if_there(files.map("d.txt", "")).unwrap().is_none());
        }
        assert_eq!(FolderFiles::embedded(&FOLDER).name(), "inside");
    }
}
