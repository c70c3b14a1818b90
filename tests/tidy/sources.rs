//! How a Rust file opens and is named, and what it may not hold.

use crate::rust_text::{product_code, without_comments};
use crate::tree::{TextFile, has_extension, paths, text_files};

/// The one file that spells the call command.
const COMMAND_GRAMMAR: &str = "shared/relay/src/command.rs";
/// Names that say where a thing was put instead of what it is.
const EMPTY_NAMES: [&str; 6] =
    ["mod.rs", "utils.rs", "common.rs", "helpers.rs", "misc.rs", "types.rs"];
/// Split, so that this file does not break its own rule.
const UNFINISHED: [&str; 3] =
    [concat!("to", "do!("), concat!("db", "g!("), concat!("unimple", "mented!(")];
const UNFINISHED_NOTE: &str = concat!("FIX", "ME");

fn rust_files() -> Vec<TextFile> {
    text_files().into_iter().filter(|file| has_extension(&file.path, "rs")).collect()
}

/// Files that are tests, benches or examples as a whole.
fn is_test_file(path: &str) -> bool {
    let folders = ["tests/", "benches/"];
    folders.iter().any(|folder| path.starts_with(folder) || path.contains(&format!("/{folder}")))
}

fn opening(files: &[TextFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| {
            format!("{}: open with a `//!` comment: what it owns, what it must not know", file.path)
        })
        .collect()
}

fn names(paths: &[String]) -> Vec<String> {
    paths
        .iter()
        .filter(|path| EMPTY_NAMES.contains(&path.rsplit('/').next().unwrap_or(path)))
        .map(|path| format!("{path}: name the file after what it holds"))
        .collect()
}

fn command_text(files: &[TextFile]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in
        files.iter().filter(|file| file.path != COMMAND_GRAMMAR && !is_test_file(&file.path))
    {
        for (line, text) in numbered(&product_code(&file.text)) {
            if text.contains("<call>") || text.contains("</call>") {
                findings.push(format!("{}:{line}: spelled out: use {COMMAND_GRAMMAR}", file.path));
            }
        }
    }
    findings
}

fn unfinished(files: &[TextFile]) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files {
        for (line, text) in numbered(&without_comments(&file.text)) {
            if let Some(left) = UNFINISHED.iter().find(|left| text.contains(**left)) {
                findings.push(format!("{}:{line}: {left}", file.path));
            }
        }
        for (line, text) in numbered(&file.text) {
            if text.contains(UNFINISHED_NOTE) {
                findings.push(format!("{}:{line}: {UNFINISHED_NOTE}", file.path));
            }
        }
    }
    findings
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn sample(path: &str, text: &str) -> Vec<TextFile> {
    vec![TextFile { path: path.into(), text: text.into() }]
}

#[test]
fn every_file_opens_with_a_comment() {
    crate::assert_none("files without an opening comment", &opening(&rust_files()));
}

#[test]
fn a_file_without_an_opening_comment_is_found() {
    assert_eq!(opening(&sample("a.rs", "use std::fs;\n//! late\n")).len(), 1);
    assert!(opening(&sample("a.rs", "//! Owns a.\n")).is_empty());
}

#[test]
fn no_file_has_an_empty_name() {
    crate::assert_none("empty names", &names(&paths()));
}

#[test]
fn an_empty_name_is_found() {
    assert_eq!(names(&["edge/src/utils.rs".into(), "mod.rs".into()]).len(), 2);
    assert!(names(&["edge/src/my_utils.rs".into()]).is_empty());
}

#[test]
fn the_command_is_spelled_in_one_file() {
    crate::assert_none("call command spelled twice", &command_text(&rust_files()));
}

#[test]
fn a_second_spelling_of_the_command_is_found() {
    let code = "//! X.\nconst OPEN: &str = \"https://x <call>\";\n";
    assert_eq!(command_text(&sample("edge/src/session.rs", code)).len(), 1);
    let excepted = "//! X.\n/// Reads `<call>`.\nfn f() {}\n#[cfg(test)]\nmod tests { const A: &str = \"</call>\"; }\n";
    assert!(command_text(&sample("edge/src/session.rs", excepted)).is_empty());
    assert!(command_text(&sample("shared/relay/tests/table.rs", code)).is_empty());
    assert!(command_text(&sample(COMMAND_GRAMMAR, code)).is_empty());
}

#[test]
fn nothing_is_left_unfinished() {
    crate::assert_none("unfinished code", &unfinished(&rust_files()));
}

#[test]
fn unfinished_code_is_found() {
    for left in UNFINISHED {
        assert_eq!(unfinished(&sample("a.rs", &format!("{left});"))).len(), 1, "{left}");
        assert!(unfinished(&sample("a.rs", &format!("// {left});"))).is_empty(), "{left}");
    }
    assert_eq!(unfinished(&sample("a.rs", &format!("// {UNFINISHED_NOTE}: x"))).len(), 1);
}
