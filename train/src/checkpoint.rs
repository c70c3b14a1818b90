//! A run's state in one file: weights and the optimiser's means as safetensors, the rest as JSON in
//! the file's own metadata, a hash over all numbers beside it. Written aside and then put in place,
//! so that there is always a whole one; the one before it is kept, should the newest be damaged
//! later. Knows no stage of training.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::optimiser::AdamW;
use crate::trainable::Weights;

const STATE: &str = "state";
const HASH: &str = "blake3";
const STEPS: &str = "steps";
const PARTS: [&str; 3] = ["weights", "first", "second"];

/// Everything that a run goes on from; `State` is what its stage keeps beside weights and means.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint<State> {
    /// What was learned so far.
    pub weights: Weights,
    /// The optimiser with its means.
    pub optimiser: AdamW,
    /// The stage's own: seed, place in the data, settings to compare.
    pub state: State,
}

/// Puts a checkpoint in place of an older one, which becomes the one before it.
pub fn save<State: Serialize>(checkpoint: &Checkpoint<State>, path: &Path) -> anyhow::Result<()> {
    let Checkpoint { weights, optimiser, state } = checkpoint;
    let rows = [&weights.values, &optimiser.first, &optimiser.second].map(|row| bytes(row));
    let metadata = HashMap::from([
        (STATE.to_owned(), serde_json::to_string(state).context("the state is no JSON")?),
        (STEPS.to_owned(), optimiser.steps.to_string()),
        (HASH.to_owned(), hash(&rows)),
    ]);
    let view = |row| TensorView::new(Dtype::F32, vec![weights.values.len()], row);
    let views = rows.iter().map(|row| view(row)).collect::<Result<Vec<_>, _>>()?;
    let file = safetensors::serialize(PARTS.into_iter().zip(views), Some(metadata))?;
    write_keeping(path, &file, Some(&previous(path)))
}

/// Where the one before it is.
fn previous(path: &Path) -> PathBuf {
    path.with_extension("previous.safetensors")
}

/// Reads the newest checkpoint back, or the one before it where the newest is damaged, with what to
/// say about that; a damaged one is moved aside. `None` if there is none.
///
/// # Errors
/// Those of [`load`], if no checkpoint is whole.
pub fn load_newest<State: DeserializeOwned>(
    start: &Weights,
    path: &Path,
) -> anyhow::Result<Option<(Checkpoint<State>, Option<String>)>> {
    let newest = load(start, path);
    if let Ok(Some(checkpoint)) = newest {
        return Ok(Some((checkpoint, None)));
    }
    let (before, shown) = (previous(path), path.display());
    let checkpoint = match (load(start, &before), newest) {
        (Ok(Some(checkpoint)), Err(_)) => {
            let damaged = path.with_extension("damaged.safetensors");
            std::fs::rename(path, &damaged)
                .with_context(|| format!("{shown}: damaged, and cannot be moved aside"))?;
            checkpoint
        }
        // A kill between the two renames.
        (Ok(Some(checkpoint)), Ok(_)) => checkpoint,
        (_, Err(error)) | (Err(error), Ok(_)) => return Err(error),
        (Ok(None), Ok(_)) => return Ok(None),
    };
    let steps = checkpoint.optimiser.steps;
    let warning =
        format!("{shown} is damaged or missing: going on from the one before it, of step {steps}");
    Ok(Some((checkpoint, Some(warning))))
}

/// Reads a checkpoint of weights like `start` back; `None` if there is none.
pub fn load<State: DeserializeOwned>(
    start: &Weights,
    path: &Path,
) -> anyhow::Result<Option<Checkpoint<State>>> {
    let file = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("{}: cannot be read", path.display()))?,
    };
    let read = read(start, &file);
    read.map(Some).with_context(|| {
        format!(
            "{}: damaged, or of another run: remove it and {} to start afresh, or give another --out",
            path.display(),
            previous(path).display()
        )
    })
}

fn read<State: DeserializeOwned>(
    start: &Weights,
    file: &[u8],
) -> anyhow::Result<Checkpoint<State>> {
    let tensors = SafeTensors::deserialize(file).context("no whole safetensors file")?;
    let (_, metadata) = SafeTensors::read_metadata(file).context("no metadata")?;
    let metadata = metadata.metadata().clone().context("no metadata")?;
    let entry = |key: &str| metadata.get(key).with_context(|| format!("no `{key}`"));
    let mut rows = Vec::new();
    for part in PARTS {
        rows.push(tensors.tensor(part).with_context(|| format!("no `{part}`"))?.data().to_vec());
    }
    ensure!(*entry(HASH)? == hash(&rows), "the numbers are not those that were written");
    let mut rows = rows.iter().map(|row| numbers(row));
    let mut next = || rows.next().unwrap_or_default();
    let weights = start.with_values(next());
    let weights = weights.context("the model has other sizes")?;
    let steps = entry(STEPS)?.parse().context("`steps` is no number")?;
    let optimiser = AdamW { first: next(), second: next(), steps };
    let state = serde_json::from_str(entry(STATE)?).context("the state is not this stage's")?;
    ensure!(optimiser.first.len() == weights.values.len(), "the means have other sizes");
    Ok(Checkpoint { weights, optimiser, state })
}

/// Writes a file so that either all of it is there, under its name, or the old one.
pub fn write_aside(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_keeping(path, bytes, None)
}

/// The same; the old file, if there is one, becomes `previous`.
fn write_keeping(path: &Path, bytes: &[u8], previous: Option<&Path>) -> anyhow::Result<()> {
    ensure!(
        !path.exists() || path.is_file(),
        "{}: is there and no ordinary file: name another place",
        path.display()
    );
    let aside = path.with_added_extension("partial");
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let kept = written.and_then(|()| match previous {
        Some(previous) if path.exists() => std::fs::rename(path, previous),
        _ => Ok(()),
    });
    let placed = kept.and_then(|()| std::fs::rename(&aside, path));
    placed.map_err(|error| {
        let shown = path.display();
        anyhow!(error).context(format!(
            "{shown}: cannot be written: is the disk full, or the folder read-only? What was \
             there before is not lost: make room and run the same command again"
        ))
    })
}

/// Numbers as safetensors has them.
pub(crate) fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The way back of [`bytes`].
pub(crate) fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

fn hash(rows: &[Vec<u8>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for row in rows {
        hasher.update(row);
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trainable::{Architecture, test_architecture};

    fn weights() -> Weights {
        Weights::draw(&test_architecture(), 5).unwrap()
    }

    fn checkpoint() -> Checkpoint<u64> {
        let weights = weights();
        let mut optimiser = AdamW::new(weights.values.len());
        optimiser.first[3] = 0.25;
        optimiser.steps = 17;
        Checkpoint { weights, optimiser, state: 42 }
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        assert!(load::<u64>(&weights(), &path).unwrap().is_none());
        save(&checkpoint(), &path).unwrap();
        assert_eq!(load(&weights(), &path).unwrap(), Some(checkpoint()));
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        save(&checkpoint(), &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        for (damaged, what) in [
            (&whole[..whole.len() / 2], "no whole safetensors file"),
            (&flipped, "the numbers are not those that were written"),
            (b"", "no whole safetensors file"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = load::<u64>(&weights(), &path).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(what) && error.contains("to start afresh"), "{error}");
        }
        std::fs::write(&path, &whole).unwrap();
        let wider = Architecture { vocabulary_tokens: 12, ..test_architecture() };
        let wider = Weights::draw(&wider, 5).unwrap();
        let error = format!("{:#}", load::<u64>(&wider, &path).unwrap_err());
        assert!(error.contains("the model has other sizes"), "{error}");
        let error = format!("{:#}", load::<String>(&weights(), &path).unwrap_err());
        assert!(error.contains("the state is not this stage's"), "{error}");
    }

    #[test]
    fn the_one_before_stands_in_for_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let newest = || load_newest::<u64>(&weights(), &path);
        assert!(newest().unwrap().is_none());
        let of = |state| Checkpoint { state, ..checkpoint() };
        save(&of(1), &path).unwrap();
        save(&of(2), &path).unwrap();
        assert_eq!(newest().unwrap(), Some((of(2), None)));
        std::fs::write(&path, b"cut").unwrap();
        let (found, warning) = newest().unwrap().unwrap();
        assert_eq!(found, of(1));
        let warning = warning.unwrap();
        assert!(warning.contains("going on from the one before it, of step 17"), "{warning}");
        // The damaged one is out of the way: it never takes the place of the sound one.
        assert_eq!(newest().unwrap().unwrap().0, of(1));
        save(&of(3), &path).unwrap();
        std::fs::write(&path, b"cut").unwrap();
        assert_eq!(newest().unwrap().unwrap().0, of(1));

        std::fs::write(&path, b"cut").unwrap();
        std::fs::write(previous(&path), b"cut").unwrap();
        let error = format!("{:#}", newest().unwrap_err());
        assert!(error.contains("checkpoint.safetensors: damaged"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told() {
        // /dev/full refuses every byte; the file aside is a link to it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let aside = folder.path().join("checkpoint.safetensors.partial");
        std::os::unix::fs::symlink("/dev/full", aside).unwrap();
        let error = format!("{:#}", save(&checkpoint(), &path).unwrap_err());
        assert!(error.contains("is the disk full") && error.contains("make room"), "{error}");
    }
}
