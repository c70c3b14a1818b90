//! Reads a GGUF header front to back. Every length is checked against what is left before
//! anything is allocated, and every byte is copied before it is judged: the file may be a map.

use std::path::Path;

use crate::error::ModelError;
use crate::error::advice::DAMAGED;

mod limits {
    /// Bytes of one text.
    pub(super) const TEXT_BYTES_MAX: u64 = 1 << 24;
}

pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0 }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Where the next byte lies.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(N as u64, "its header")?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn text(&mut self) -> Result<String, ModelError> {
        let len = self.u64()?;
        if len > limits::TEXT_BYTES_MAX {
            return Err(self.bad(format!("a text of {len} bytes at byte {}", self.at), DAMAGED));
        }
        let bytes = self.slice(len, "a text")?.to_vec();
        String::from_utf8(bytes)
            .map_err(|_| self.bad(format!("a text before byte {} is not UTF-8", self.at), DAMAGED))
    }

    /// A number of things that are `most` at the most.
    pub(super) fn count(&mut self, what: &str, most: u64) -> Result<u64, ModelError> {
        let count = self.u64()?;
        if count > most {
            return Err(self.bad(format!("{what}: {count}, where {most} is the most"), DAMAGED));
        }
        Ok(count)
    }

    /// Refuses `bytes` more than the file has.
    pub(super) fn check_left(&self, bytes: u64, what: &str) -> Result<(), ModelError> {
        if bytes > (self.bytes.len() - self.at) as u64 {
            let what = format!("the file ends inside of {what}, at byte {}", self.bytes.len());
            return Err(self.bad(what, DAMAGED));
        }
        Ok(())
    }

    pub(super) fn bad(&self, what: impl Into<String>, advice: &'static str) -> ModelError {
        ModelError::bad_file(self.path, what, advice)
    }

    /// So many bytes where they lie; a caller that judges them copies them first.
    pub(super) fn slice(&mut self, bytes: u64, what: &str) -> Result<&'a [u8], ModelError> {
        self.check_left(bytes, what)?;
        let start = self.at;
        self.at += usize::try_from(bytes).unwrap_or(0);
        Ok(&self.bytes[start..self.at])
    }
}
