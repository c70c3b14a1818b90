//! Where things are kept outside of the tree: the user's cache folder. Knows no chore.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The workspace's root.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Model files, shared by all checkouts.
pub(crate) fn models() -> anyhow::Result<PathBuf> {
    made(cache()?.join("models"))
}

/// What a demo leaves for the next one, and its working folders.
pub(crate) fn demo() -> anyhow::Result<PathBuf> {
    made(cache()?.join("demo"))
}

fn cache() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let base = base.context("no cache folder: set HOME or XDG_CACHE_HOME to an absolute path")?;
    Ok(base.join("relay"))
}

fn made(folder: PathBuf) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(&folder).with_context(|| {
        format!("cannot make {}: set XDG_CACHE_HOME to a folder you can write", folder.display())
    })?;
    Ok(folder)
}
