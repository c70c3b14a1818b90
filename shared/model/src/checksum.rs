//! Checksums of a model's files, for whoever asks: loading a model does not take the time to read
//! every byte of it twice. As publishers print them and `sha256sum --check` reads them.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::ModelError;
use crate::folder_files::ModelSource;
use crate::regular_file::open_regular;

mod limits {
    /// Files of a folder that are looked at: the largest published models have some hundreds.
    pub(super) const FILES_MAX: usize = 4096;
    /// Bytes that are read at once.
    pub(super) const READ_BYTES: usize = 1 << 20;
}

const ADVICE: &str = "give a GGUF file, or a folder with config.json and safetensors";

/// A file and what its bytes come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileChecksum {
    /// Its name, without the folder.
    pub file: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// Checksums of a model's file or, for a folder, of each `json` and `safetensors` in it, by name.
///
/// # Errors
/// [`ModelError::Io`] if a file cannot be read, [`ModelError::BadFile`] if there is none.
pub fn checksums(source: impl Into<ModelSource>) -> Result<Vec<FileChecksum>, ModelError> {
    match source.into() {
        ModelSource::Embedded(folder) => {
            let sum = |(file, bytes): &(&str, &[u8])| FileChecksum {
                file: (*file).to_owned(),
                sha256: hexadecimal(Sha256::digest(bytes)),
            };
            Ok(folder.files.iter().map(sum).collect())
        }
        ModelSource::Path(path) if path.is_dir() => {
            files_of(&path)?.iter().map(|path| sum_file(path)).collect()
        }
        ModelSource::Path(path) => Ok(vec![sum_file(&path)?]),
    }
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let failed = |source| ModelError::Io { path: folder.to_owned(), action: "read", source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)?.take(limits::FILES_MAX) {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().unwrap_or_default();
        if (extension == "json" || extension == "safetensors") && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(ModelError::bad_file(folder, "no file of a model is in it", ADVICE));
    }
    files.sort();
    Ok(files)
}

fn sum_file(path: &Path) -> Result<FileChecksum, ModelError> {
    let file = open_regular(path, ADVICE)?;
    let failed = |source| ModelError::Io { path: path.to_owned(), action: "read", source };
    let mut file = BufReader::with_capacity(limits::READ_BYTES, file);
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(failed)?;
    let sha256 = hexadecimal(hasher.finalize());
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileChecksum { file, sha256 })
}

pub(crate) fn hexadecimal(bytes: impl AsRef<[u8]>) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "abc", from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_s_checksum_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, b"abc").unwrap();
        let sums = checksums(&path).unwrap();
        assert_eq!(sums, [FileChecksum { file: "m.gguf".into(), sha256: ABC.into() }]);
        std::fs::write(&path, vec![0; 2 * limits::READ_BYTES + 1]).unwrap();
        let zeros = hexadecimal(Sha256::digest(vec![0; 2 * limits::READ_BYTES + 1]));
        assert_eq!(checksums(&path).unwrap()[0].sha256, zeros);
    }

    #[test]
    fn a_folder_has_one_for_each_file_of_the_model() {
        let folder = tempfile::tempdir().unwrap();
        assert!(checksums(folder.path()).is_err());
        for name in ["model.safetensors", "config.json", "README.md"] {
            std::fs::write(folder.path().join(name), b"abc").unwrap();
        }
        let sums = checksums(folder.path()).unwrap();
        let files: Vec<&str> = sums.iter().map(|sum| sum.file.as_str()).collect();
        assert_eq!(files, ["config.json", "model.safetensors"]);
        assert!(sums.iter().all(|sum| sum.sha256 == ABC));
        assert!(checksums(&folder.path().join("missing")).is_err());
    }
}
