//! Lines of JSON, one value a line, with faults that name the source and the line. Knows nothing
//! of what the values are.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read};
use std::marker::PhantomData;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;

mod limits {
    /// A longer line is no problem or response that anyone wrote; it would only fill the memory.
    pub(super) const LINE_BYTES_MAX: u64 = 16 << 20;
}

/// Reads values of one type, a line each. Empty lines are passed over.
#[derive(Debug)]
pub struct JsonLines<Reader, Item> {
    reader: Reader,
    source: String,
    line: usize,
    items: PhantomData<Item>,
}

impl<Reader: BufRead, Item: DeserializeOwned> JsonLines<Reader, Item> {
    /// Reads from `reader`; faults call it `source`.
    pub fn new(reader: Reader, source: impl Into<String>) -> Self {
        Self { reader, source: source.into(), line: 0, items: PhantomData }
    }

    /// The place of the line read last, as faults name it: `file:12`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.source, self.line)
    }

    /// The next value, or what is wrong with its line.
    pub fn read(&mut self) -> anyhow::Result<Option<Item>> {
        loop {
            self.line += 1;
            let Some(line) = self.read_line()? else {
                return Ok(None);
            };
            let line = line.trim_start_matches('\u{feff}').trim();
            if !line.is_empty() {
                let item = serde_json::from_str(line).map_err(|error| self.fault(&error))?;
                return Ok(Some(item));
            }
        }
    }

    fn read_line(&mut self) -> anyhow::Result<Option<String>> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.reader).take(limits::LINE_BYTES_MAX + 1);
        let read = limited.read_until(b'\n', &mut bytes);
        let length = read.with_context(|| format!("{}: cannot be read", self.place()))?;
        if length == 0 {
            return Ok(None);
        }
        if length as u64 > limits::LINE_BYTES_MAX {
            bail!("{}: longer than {} bytes: is this JSONL?", self.place(), limits::LINE_BYTES_MAX);
        }
        let text = String::from_utf8(bytes);
        text.map(Some).map_err(|_| anyhow!("{}: not UTF-8: convert the file first", self.place()))
    }

    /// serde counts lines within the line; only the column is of use.
    fn fault(&self, error: &serde_json::Error) -> anyhow::Error {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        let advice = if error.is_data() { "" } else { ": one JSON object a line is expected" };
        anyhow!("{}: {what} (column {}){advice}", self.place(), error.column())
    }
}

/// Opens a file that lines are added to, for a run that goes on where it was, and reads its whole
/// lines. A last line that a kill cut short was never finished: it is cut off.
pub fn open_appended(path: &Path) -> anyhow::Result<(File, Vec<u8>)> {
    let shown = path.display();
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("{shown}: cannot be opened"))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(|| format!("{shown}: cannot be read"))?;
    cut_last_line(&mut bytes);
    file.set_len(bytes.len() as u64).with_context(|| format!("{shown}: cannot be cut"))?;
    Ok((file, bytes))
}

/// The whole lines of a file that another process may be adding to: nothing of it is changed.
pub fn read_whole_lines(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = std::fs::read(path);
    let mut bytes = read.with_context(|| format!("{}: cannot be read", path.display()))?;
    cut_last_line(&mut bytes);
    Ok(bytes)
}

/// Drops what stands behind the last end of a line.
fn cut_last_line(bytes: &mut Vec<u8>) {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Item {
        a: u32,
    }

    fn read(bytes: &[u8]) -> Result<Vec<u32>, String> {
        let mut lines = JsonLines::<_, Item>::new(bytes, "x.jsonl");
        let mut items = Vec::new();
        loop {
            match lines.read() {
                Ok(Some(item)) => items.push(item.a),
                Ok(None) => return Ok(items),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    #[test]
    fn lines_are_values() {
        assert_eq!(read(b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"a\":2,\"b\":0}"), Ok(vec![1, 2]));
        assert_eq!(read(b""), Ok(vec![]));
    }

    #[test]
    fn faults_name_the_line() {
        for (bytes, expected) in [
            (&b"{\"a\":1}\n\n{\"b\":1}"[..], "x.jsonl:3: missing field `a` (column 7)"),
            (b"{\"a\":-1}", "x.jsonl:1: invalid value: integer `-1`, expected u32 (column 7)"),
            (
                b"{\"a\":",
                "x.jsonl:1: EOF while parsing a value (column 5): one JSON object a line is expected",
            ),
            (b"\n\xff\xfe", "x.jsonl:2: not UTF-8: convert the file first"),
        ] {
            assert_eq!(read(bytes), Err(expected.to_owned()));
        }
        let long = vec![b' '; usize::try_from(limits::LINE_BYTES_MAX).unwrap() + 2];
        assert!(read(&long).unwrap_err().starts_with("x.jsonl:1: longer than 16777216 bytes"));
    }
}
