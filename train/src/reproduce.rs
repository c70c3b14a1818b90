//! `relay-train reproduce`: the tiny pair and its results from nothing, as a matrix of cells that
//! can be stopped anywhere. A cell whose result is kept is not run again; one that was stopped goes
//! on from its last checkpoint. Knows the stages by their command lines only.
//!
//! | File | Holds |
//! |---|---|
//! | `reproduce/cell.rs` | the cells as data, and the words of their commands |
//! | `reproduce/table.rs` | results as a table |

pub mod cell;
pub mod table;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::checkpoint::write_aside;
use crate::training_run::stop_on_signals;
use cell::{Cell, Folders, named, read_cells};

/// What to run.
#[derive(Args)]
pub struct Reproduce {
    /// Where cells put checkpoints, models and logs; a folder of the user's cache unless given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The folder of `cells.toml`, its settings and results.
    #[arg(long, default_value = "train/runs")]
    runs: PathBuf,
    /// Only this cell, and those that it needs and that are not here; may be given again.
    #[arg(long = "cell", value_name = "NAME")]
    cells: Vec<String>,
    /// Only say which cells there are, and which of them are finished.
    #[arg(long)]
    list: bool,
    /// Only write the table of the results that are there.
    #[arg(long)]
    table: bool,
}

/// Runs the words of one command of `relay-train`.
pub type RunWords<'a> = &'a mut dyn FnMut(&[String], &mut dyn Write) -> anyhow::Result<()>;

/// Runs what is asked for and missing, then writes the table.
pub fn run(
    flags: &Reproduce,
    run_words: RunWords<'_>,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    run_until(&stop, flags, run_words, output)
}

/// As [`run`]; stops behind the command in hand once `stop` is set.
fn run_until(
    stop: &AtomicBool,
    flags: &Reproduce,
    run_words: RunWords<'_>,
    output: &mut dyn Write,
) -> anyhow::Result<()> {
    let out = match &flags.out {
        Some(out) => out.clone(),
        None => crate::eval_command::cache_folder()?.join("reproduce"),
    };
    let folders = Folders { runs: flags.runs.clone(), out };
    let cells = read_cells(&folders.runs.join("cells.toml"))?;
    if flags.list {
        return list(&cells, &folders, output);
    }
    if !flags.table {
        let mut matrix = Matrix { cells: &cells, folders: &folders, run_words, output, stop };
        for cell in chosen(&cells, &flags.cells)? {
            if !matrix.complete(cell, !flags.cells.is_empty())? {
                return Ok(());
            }
        }
    }
    let table = table::markdown(&cells, &folders)?;
    let path = folders.runs.join("results").join("TABLE.md");
    write_aside(&path, table.as_bytes())?;
    writeln!(output, "{}", path.display()).context("cannot write")
}

fn chosen<'a>(cells: &'a [Cell], names: &[String]) -> anyhow::Result<Vec<&'a Cell>> {
    if let Some(unknown) = names.iter().find(|name| cells.iter().all(|cell| cell.name != **name)) {
        bail!("there is no cell {unknown}: --list says which there are");
    }
    Ok(cells.iter().filter(|cell| names.is_empty() || names.contains(&cell.name)).collect())
}

fn list(cells: &[Cell], folders: &Folders, output: &mut dyn Write) -> anyhow::Result<()> {
    for cell in cells {
        let state = match read_result(cells, folders, cell)? {
            Some(Kept { is_current: false, .. }) => "of other settings".to_owned(),
            Some(Kept { minutes: None, .. }) => "finished".to_owned(),
            Some(Kept { minutes: Some(minutes), .. }) => format!("finished in {minutes:.1} min"),
            None if folders.of(&cell.name).exists() => "under way".to_owned(),
            None => "missing".to_owned(),
        };
        writeln!(output, "{:24} {state:20} {}", cell.name, cell.says)?;
    }
    Ok(())
}

/// A result that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Time that its cell took, where it is known.
    pub(crate) minutes: Option<f64>,
    /// Whether the cell's commands and settings are still those that it came of.
    pub(crate) is_current: bool,
    /// What the last command wrote.
    pub(crate) figures: Value,
}

/// A finished cell's result.
pub(crate) fn read_result(
    cells: &[Cell],
    folders: &Folders,
    cell: &Cell,
) -> anyhow::Result<Option<Kept>> {
    let path = folders.result(&cell.name);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("{}: cannot be read", path.display()))?,
    };
    let mut kept: Value = serde_json::from_str(&text)
        .with_context(|| format!("{}: is no result: remove it", path.display()))?;
    let recipe = cell.recipe(cells, folders)?;
    Ok(Some(Kept {
        minutes: kept["seconds"].as_f64().map(|seconds| seconds / 60.0),
        is_current: recipe.iter().all(|(key, value)| kept[key] == *value),
        figures: kept["result"].take(),
    }))
}

/// Cells on their way.
struct Matrix<'a, 'b> {
    cells: &'a [Cell],
    folders: &'a Folders,
    run_words: RunWords<'b>,
    output: &'b mut dyn Write,
    /// Set by Ctrl-C.
    stop: &'a AtomicBool,
}

impl Matrix<'_, '_> {
    /// Runs a cell and those that it needs, as far as they are missing. False if it was stopped.
    fn complete(&mut self, cell: &Cell, is_asked_for: bool) -> anyhow::Result<bool> {
        match read_result(self.cells, self.folders, cell)? {
            Some(Kept { is_current: true, .. }) => {
                if is_asked_for {
                    writeln!(self.output, "cell {}: finished before", cell.name)?;
                }
                return Ok(true);
            }
            Some(_) => writeln!(self.output, "cell {}: its settings have changed", cell.name)?,
            None => {}
        }
        self.run(cell)
    }

    fn run(&mut self, cell: &Cell) -> anyhow::Result<bool> {
        // Results travel, models and files may not: what is not here is made again.
        while let Some(missing) = cell.missing(self.cells, self.folders)? {
            if !self.run(named(self.cells, &missing)?)? {
                return Ok(false);
            }
            ensure!(
                cell.missing(self.cells, self.folders)? != Some(missing.clone()),
                "cell {}: cell {missing} does not make what it needs: mend cells.toml",
                cell.name
            );
        }
        writeln!(self.output, "cell {}: {}", cell.name, cell.says)?;
        let own = self.folders.of(&cell.name);
        cell.begin(self.cells, self.folders)?;
        if let Some(settings) = cell.settings(self.folders)? {
            write_aside(&cell.config_path(self.folders), settings.as_bytes())?;
        }
        let began = Instant::now();
        if !cell.is_finished(self.cells, self.folders)? {
            for words in cell.words(self.cells, self.folders)? {
                let ran = (self.run_words)(&words, self.output);
                ran.with_context(|| format!("cell {}: {}", cell.name, words[0]))?;
                // A stage that was asked to stop ends well, and has not finished.
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        let seconds = add_seconds(&own.join("seconds"), began.elapsed().as_secs_f64())?;
        if self.stop.load(Ordering::Relaxed) {
            writeln!(self.output, "cell {}: stopped; the same command goes on", cell.name)?;
            return Ok(false);
        }
        if !read_result(self.cells, self.folders, cell)?.is_some_and(|kept| kept.is_current) {
            self.keep(cell, &own.join(&cell.result), seconds)?;
        }
        cell.mark_finished(self.folders)?;
        Ok(true)
    }

    /// Puts the result where it is committed; of lines, their number and the last.
    fn keep(&self, cell: &Cell, result: &Path, seconds: f64) -> anyhow::Result<()> {
        let shown = result.display();
        let text =
            std::fs::read_to_string(result).with_context(|| format!("{shown}: cannot be read"))?;
        let result = if result.extension().is_some_and(|extension| extension == "jsonl") {
            let hash = blake3::hash(text.as_bytes()).to_hex();
            let last = text.lines().next_back().map(serde_json::from_str::<Value>).transpose()?;
            json!({ "lines": text.lines().count(), "blake3": hash.as_str(), "last": last })
        } else {
            serde_json::from_str(&text).with_context(|| shown.to_string())?
        };
        let mut kept = cell.recipe(self.cells, self.folders)?;
        kept.insert("cell".into(), json!(cell.name));
        kept.insert("says".into(), json!(cell.says));
        kept.insert("seconds".into(), json!(seconds.round()));
        kept.insert("result".into(), result);
        let path = self.folders.result(&cell.name);
        let folder = path.parent().context("a result has no folder")?;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        write_aside(&path, (serde_json::to_string_pretty(&kept)? + "\n").as_bytes())
    }
}

/// The time that all runs of a cell took together.
fn add_seconds(path: &Path, seconds: f64) -> anyhow::Result<f64> {
    let before = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let seconds = before.unwrap_or(0.0) + seconds;
    write_aside(path, format!("{seconds}\n").as_bytes())?;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: &str = r#"
        [[cell]]
        name = "a"
        says = "first"
        commands = [["make", "{out}"]]
        result = "check.json"
        [[cell]]
        name = "b"
        says = "second"
        commands = [["take", "{model:a}"], ["make", "{out}"]]
        result = "check.json"
        [[cell]]
        name = "c"
        says = "third"
        commands = [["make", "{out}"]]
        result = "check.json"
    "#;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("cells.toml"), CELLS).unwrap();
            Self { folder }
        }

        /// Runs, and gives the commands that were run; Ctrl-C comes in one of them.
        fn run(&self, cells: &[&str], out: &str, stops_at: Option<&str>) -> Vec<String> {
            let (mut ran, stop) = (Vec::new(), AtomicBool::new(false));
            let flags = Reproduce {
                out: Some(self.folder.path().join(out)),
                runs: self.folder.path().to_owned(),
                cells: cells.iter().map(ToString::to_string).collect(),
                list: false,
                table: false,
            };
            let mut run_words = |words: &[String], _: &mut dyn Write| {
                let at = Path::new(&words[1]);
                let cell = at.strip_prefix(self.folder.path().join(out)).unwrap();
                ran.push(format!("{} {}", words[0], cell.display()));
                if words[0] == "make" {
                    std::fs::create_dir_all(at.join("model")).unwrap();
                    std::fs::write(at.join("check.json"), "{\"right\": 1}").unwrap();
                    stop.fetch_or(stops_at == cell.to_str(), Ordering::Relaxed);
                }
                Ok(())
            };
            run_until(&stop, &flags, &mut run_words, &mut Vec::new()).unwrap();
            ran
        }
    }

    #[test]
    fn a_stopped_matrix_goes_on_and_finished_cells_are_not_run_again() {
        let world = World::new();
        assert_eq!(world.run(&[], "out", Some("b")), ["make a", "take a/model", "make b"]);
        assert_eq!(world.run(&[], "out", None), ["take a/model", "make b", "make c"]);
        assert!(world.run(&[], "out", None).is_empty());
        let result = std::fs::read_to_string(world.folder.path().join("results/b.json")).unwrap();
        let result: Value = serde_json::from_str(&result).unwrap();
        assert_eq!((&result["cell"], &result["result"]["right"]), (&json!("b"), &json!(1)));
        assert!(!result.to_string().contains(world.folder.path().to_str().unwrap()));
    }

    #[test]
    fn a_cell_whose_recipe_has_changed_is_run_again() {
        let world = World::new();
        world.run(&[], "out", None);
        let changed =
            CELLS.replace(r#"["take", "{model:a}"], ["make", "{out}"]"#, r#"["make", "{out}"]"#);
        std::fs::write(world.folder.path().join("cells.toml"), changed).unwrap();
        assert_eq!(world.run(&[], "out", None), ["make b"]);
        assert!(world.run(&[], "out", None).is_empty());
    }

    #[test]
    fn a_cell_brings_what_it_needs_and_no_more() {
        let world = World::new();
        assert_eq!(world.run(&["b"], "out", None), ["make a", "take a/model", "make b"]);
        // On another machine a's result is there, its model is not.
        std::fs::remove_file(world.folder.path().join("results/b.json")).unwrap();
        assert_eq!(world.run(&["b"], "elsewhere", None), ["make a", "take a/model", "make b"]);
        let cells = read_cells(&world.folder.path().join("cells.toml")).unwrap();
        let error = chosen(&cells, &["x".into()]);
        assert!(error.unwrap_err().to_string().contains("there is no cell x"));
    }
}
