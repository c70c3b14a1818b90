//! Opening a file that must be one. Knows nothing of what is in it.

use std::fs::File;
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
