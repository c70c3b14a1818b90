//! Which files belong to the product: what git tracks, and what it would if it were asked to.
//! Knows no rule.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A text file of the tree; `path` is relative to the workspace's root, with forward slashes.
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The folder that holds the workspace's manifest.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_path_buf()
}

/// Paths of all files that are not ignored, relative to the root.
pub(crate) fn paths() -> Vec<String> {
    let listing = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .args(["--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is needed to list the files of the tree");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let names = String::from_utf8(listing.stdout).expect("file names are UTF-8");
    let mut paths: Vec<String> = names.split_terminator('\0').map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Every file that is text; what is not UTF-8, or was deleted and not yet committed, is left out.
pub(crate) fn text_files() -> Vec<TextFile> {
    let files: Vec<TextFile> = paths()
        .into_iter()
        .filter_map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).ok()?;
            Some(TextFile { path, text })
        })
        .collect();
    assert!(files.len() > 20, "only {} files: the listing must be wrong", files.len());
    files
}

/// Does the file's name end so? (Case matters: the tree has one spelling.)
pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}
