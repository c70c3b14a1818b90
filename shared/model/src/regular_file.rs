//! Opening and reading a file that must be one. Knows nothing of what is in it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::ModelError;

/// Opens a regular file, and asks before it opens: opening a named pipe waits for its writer.
///
/// # Errors
/// [`ModelError::Io`] if the system refuses, [`ModelError::BadFile`] if it is a folder, a pipe or a
/// device; `advice` then says what kind of file is wanted.
pub(crate) fn open_regular(path: &Path, advice: &'static str) -> Result<File, ModelError> {
    let failed = |source| ModelError::Io { path: path.to_owned(), action: "open", source };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(ModelError::bad_file(path, "this is not a file", advice));
    }
    File::open(path).map_err(failed)
}

/// All of a regular file of at most `bytes_max` bytes. `kind` is what they are, for the error.
///
/// # Errors
/// As [`open_regular`], and [`ModelError::BadFile`] if the file is longer or stands for another.
pub(crate) fn read_bounded(
    path: &Path,
    bytes_max: u64,
    kind: &str,
    advice: &'static str,
) -> Result<Vec<u8>, ModelError> {
    let failed = |source| ModelError::Io { path: path.to_owned(), action: "read", source };
    let file = open_regular(path, advice)?;
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        let what = format!("more than {bytes_max} bytes of {kind}");
        return Err(ModelError::bad_file(path, what, advice));
    }
    refuse_pointer(path, &bytes)?;
    Ok(bytes)
}

/// Refuses what Git LFS leaves in the place of a large file until that is fetched.
///
/// # Errors
/// [`ModelError::BadFile`] saying how to fetch it.
pub(crate) fn refuse_pointer(path: &Path, bytes: &[u8]) -> Result<(), ModelError> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        let what = "this is a pointer of Git LFS, not the file itself";
        let advice = "fetch it with `git lfs pull`, or download the file";
        return Err(ModelError::bad_file(path, what, advice));
    }
    Ok(())
}

/// A file that is not there is `None`; all other errors stay.
pub(crate) fn if_there<T>(read: Result<T, ModelError>) -> Result<Option<T>, ModelError> {
    match read {
        Err(ModelError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), folder.path()] {
            let error = open_regular(path, "give a file").unwrap_err().to_string();
            assert!(error.contains("this is not a file; give a file"), "{error}");
        }
        let missing = open_regular(&folder.path().join("missing"), "").unwrap_err();
        assert!(matches!(missing, ModelError::Io { action: "open", .. }), "{missing}");
    }
}
