//! A file in memory without a copy: the only unsafe code of this crate.
//!
//! **What a caller must know.** The system brings pages in as they are touched, and may drop them
//! again. Nothing keeps another program from changing the file meanwhile:
//! - A file *replaced by renaming* another onto its name stays whole for us: we hold the old one.
//!   That is the way to bring a new model.
//! - A file *written over in place* gives other bytes from then on. Bytes of a map are therefore
//!   copied before they are checked wherever a later step relies on the check (the header), and
//!   are otherwise only ever used as numbers: answers become nonsense, memory stays safe.
//! - A file *cut short in place* takes pages away; touching them ends the program by a signal
//!   (SIGBUS). We check the length when we open the file and cannot check it at every access.
//!
//! Knows nothing of formats.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::ModelError;
use crate::regular_file::{open_regular, refuse_pointer};

/// A file's bytes, mapped for reading.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
    Embedded(&'static [u8]),
}

impl MappedFile {
    /// # Errors
    /// [`ModelError::Io`] if the system refuses, [`ModelError::BadFile`] if this is not a regular
    /// file; `advice` then says what kind of file is wanted.
    pub(crate) fn open(path: &Path, advice: &'static str) -> Result<Arc<Self>, ModelError> {
        let failed =
            |action| move |source| ModelError::Io { path: path.to_owned(), action, source };
        let file = open_regular(path, advice)?;
        let bytes = match file.metadata().map_err(failed("read"))?.len() {
            // Some systems do not map nothing.
            0 => Bytes::Owned(Vec::new()),
            _ => Bytes::Mapped(map(&file).map_err(failed("map"))?),
        };
        let file = Self { path: path.to_owned(), bytes };
        refuse_pointer(path, &file)?;
        Ok(Arc::new(file))
    }

    /// Bytes that are part of the program; errors name them by `path`.
    pub(crate) fn embedded(path: PathBuf, bytes: &'static [u8]) -> Arc<Self> {
        Arc::new(Self { path, bytes: Bytes::Embedded(bytes) })
    }

    /// Bytes that are no file: what tests and fuzz targets make up.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn made_up(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { path: PathBuf::from("made-up"), bytes: Bytes::Owned(bytes) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the memory of its pages back. Whoever reads on reads the file again, which the system
    /// mostly still has.
    pub(crate) fn release(&self) {
        if let Bytes::Mapped(map) = &self.bytes {
            release(map);
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
            Bytes::Embedded(bytes) => bytes,
        }
    }
}

#[expect(unsafe_code, reason = "a map is only as constant as its file, see above")]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is read only and its length is the file's at this moment. The bytes may
    // change if somebody writes to the file in place; nothing in this crate decides about memory
    // by bytes it has not copied, as this file's opening comment demands.
    unsafe { memmap2::Mmap::map(file) }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "a map that is read only loses nothing, see below")]
fn release(map: &memmap2::Mmap) {
    // SAFETY: only pages that were written to would lose what they hold. This map is read only: its
    // pages are the file's, and come back from there. A system that does not take the advice keeps
    // them, which is as good for everything but memory.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
}

#[cfg(not(unix))]
fn release(_: &memmap2::Mmap) {}

/// A stretch of a mapped file, which it keeps alive.
#[derive(Debug, Clone)]
pub(crate) struct FileBytes {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl FileBytes {
    /// `None` if the range does not lie inside the file.
    pub(crate) fn new(file: &Arc<MappedFile>, range: Range<usize>) -> Option<Self> {
        file.get(range.clone())?;
        Some(Self { file: Arc::clone(file), range })
    }

    /// Gives the memory of the whole file's pages back: the system brings more pages in than are
    /// touched, so that those around this stretch would stay.
    pub(crate) fn release(&self) {
        self.file.release();
    }

    /// Where it lies in the file.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_files_and_outlive_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = MappedFile::open(&path, "").unwrap();
        let middle = FileBytes::new(&file, 3..6).unwrap();
        std::fs::write(folder.path().join("next"), b"other").unwrap();
        std::fs::rename(folder.path().join("next"), &path).unwrap();
        drop(file);
        assert_eq!(&*middle, b"345");
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    fn ranges_outside_are_refused() {
        let file = MappedFile::made_up(vec![7; 10]);
        assert_eq!(FileBytes::new(&file, 10..10).as_deref(), Some(&[][..]));
        for range in [9..11, 11..11, 5..4, 0..usize::MAX] {
            assert!(FileBytes::new(&file, range).is_none());
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = MappedFile::open(folder.path(), "give a file").unwrap_err();
        assert!(error.to_string().contains("not a file; give a file"), "{error}");
        let missing = MappedFile::open(&folder.path().join("missing"), "").unwrap_err();
        assert!(missing.to_string().contains("cannot open"), "{missing}");
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        assert!(MappedFile::open(&folder.path().join("empty"), "").unwrap().is_empty());
    }
}
