//! Standard input, line by line, none of them without end. Knows nothing of what a line asks.

use std::io::{self, BufRead, Read};

use tokio::sync::mpsc;

mod limits {
    /// Lines that wait for their answer.
    pub(super) const LINES: usize = 16;
    /// Bytes of one line: more than any context of a small model holds.
    pub(super) const LINE_BYTES: usize = 1 << 20;
}

/// A line that is no question.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("the line is longer than {bytes_max} bytes and was skipped: ask in fewer words")]
    TooLong { bytes_max: usize },
    #[error("the line is not UTF-8 and was skipped: write it in UTF-8")]
    NotUtf8,
}

/// Lines as they come.
pub(crate) type Lines = mpsc::Receiver<Result<String, LineError>>;

/// Reads on a thread of its own, which ends with the input, or with the process: a read that waits
/// for a terminal cannot be called off.
pub(crate) fn read_lines() -> io::Result<Lines> {
    let (sender, lines) = mpsc::channel(limits::LINES);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(line)) = read_line(&mut input, limits::LINE_BYTES) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(lines)
}

/// The next line without its end; `None` after the last. Of one that is too long no more than the
/// limit is ever held, and the rest is passed over.
fn read_line(
    input: &mut impl BufRead,
    bytes_max: usize,
) -> io::Result<Option<Result<String, LineError>>> {
    let mut line = Vec::new();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > bytes_max {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(LineError::TooLong { bytes_max })));
    }
    Ok(Some(String::from_utf8(line).map_err(|_| LineError::NotUtf8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_the_next_one_is_whole() {
        let mut input: &[u8] = b"abcd\nabcde\nabcdefghijkl\n\n\xff\nend";
        let mut told = Vec::new();
        while let Some(line) = read_line(&mut input, 4).unwrap() {
            told.push(line.unwrap_or_else(|error| error.to_string()));
        }
        let long = "the line is longer than 4 bytes and was skipped: ask in fewer words";
        let not_utf8 = "the line is not UTF-8 and was skipped: write it in UTF-8";
        assert_eq!(told, ["abcd", long, long, "", not_utf8, "end"]);
    }
}
