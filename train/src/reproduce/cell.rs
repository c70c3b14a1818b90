//! The cells of the matrix, as data: what `cells.toml` says of each, and the words of its commands
//! once every placeholder is filled. Runs nothing.
//!
//! A word may hold `{out}` (the cell's own folder), `{config}` (its settings, with what the cell
//! changes in them), `{model:CELL}` (the model another cell made) and `{file:CELL/NAME}` (a file of
//! another cell). A cell needs those that it names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// A cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Its name: of its folder, and of its result.
    pub name: String,
    /// What it is, for people.
    pub says: String,
    /// Its commands, in order: words as on the command line of `relay-train`.
    pub commands: Vec<Vec<String>>,
    /// The settings file, beside `cells.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Settings that are others here, by their dotted keys.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub change: Table,
    /// The file in the cell's folder whose JSON is its result.
    pub result: String,
    /// Where its model is kept beside `cells.toml`, for machines that did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Cells of one group differ by their seed only; the table gives their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// All of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellFile {
    cell: Vec<Cell>,
}

/// Reads the cells, and sees that each names only cells before it.
pub fn read_cells(path: &Path) -> anyhow::Result<Vec<Cell>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("{shown}: cannot be read: run from the checkout's root, or give --runs")
    })?;
    let CellFile { cell: cells } = toml::from_str(&text).with_context(|| shown.to_string())?;
    let mut known = BTreeSet::new();
    for cell in &cells {
        let fault = || format!("{shown}: cell {}", cell.name);
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(cell.name.chars().all(is_plain), "{}: its name is no file's name", fault());
        for need in cell.needs().with_context(fault)? {
            ensure!(known.contains(&need), "{}: there is no cell {need} before it", fault());
        }
        ensure!(known.insert(cell.name.clone()), "{}: occurs twice", fault());
    }
    Ok(cells)
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Folders {
    /// `cells.toml`, settings, results, and models that are kept.
    pub runs: PathBuf,
    /// A folder for each cell.
    pub out: PathBuf,
}

impl Folders {
    /// The cell's own folder.
    pub fn of(&self, cell: &str) -> PathBuf {
        self.out.join(cell)
    }

    /// Where its result is kept.
    pub fn result(&self, cell: &str) -> PathBuf {
        self.runs.join("results").join(format!("{cell}.json"))
    }

    /// The file that says that all of its commands are done.
    pub fn finished(&self, cell: &str) -> PathBuf {
        self.of(cell).join("finished")
    }

    /// The model that a cell made here, else the one that is kept.
    pub fn model(&self, cell: &Cell) -> Option<PathBuf> {
        let made = self.of(&cell.name).join("model");
        let is_finished = self.finished(&cell.name).exists();
        let kept = cell.kept.as_ref().map(|kept| self.runs.join(kept));
        if is_finished && made.exists() { Some(made) } else { kept.filter(|kept| kept.exists()) }
    }
}

/// A placeholder.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Out,
    Config,
    Model(&'a str),
    File(&'a str, &'a str),
}

fn parts(word: &str) -> anyhow::Result<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = word;
    while let Some((before, behind)) = rest.split_once('{') {
        let (inside, after) = behind.split_once('}').with_context(|| format!("{word}: no }}"))?;
        parts.push(Part::Text(before));
        parts.push(match inside.split_once(':') {
            None if inside == "out" => Part::Out,
            None if inside == "config" => Part::Config,
            Some(("model", cell)) => Part::Model(cell),
            Some(("file", path)) => {
                let (cell, name) = path.split_once('/').with_context(|| format!("{word}: no /"))?;
                Part::File(cell, name)
            }
            _ => bail!("{word}: no such placeholder"),
        });
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

impl Cell {
    /// The cells it names.
    pub fn needs(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut needs = BTreeSet::new();
        for word in self.commands.iter().flatten() {
            needs.extend(parts(word)?.into_iter().filter_map(|part| match part {
                Part::Model(cell) | Part::File(cell, _) => Some(cell.to_owned()),
                _ => None,
            }));
        }
        Ok(needs)
    }

    /// Whether all that it needs is here, or which cell's is not.
    pub fn missing(&self, cells: &[Cell], folders: &Folders) -> anyhow::Result<Option<String>> {
        for word in self.commands.iter().flatten() {
            for part in parts(word)? {
                let (name, is_here) = match part {
                    Part::Model(name) => {
                        let cell = cells.iter().find(|cell| cell.name == name);
                        (name, cell.is_some_and(|cell| folders.model(cell).is_some()))
                    }
                    Part::File(name, file) => {
                        let is_finished = folders.finished(name).exists();
                        (name, is_finished && folders.of(name).join(file).exists())
                    }
                    _ => continue,
                };
                if !is_here {
                    return Ok(Some(name.to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// The words of its commands, every placeholder filled.
    pub fn words(&self, cells: &[Cell], folders: &Folders) -> anyhow::Result<Vec<Vec<String>>> {
        let shown = |path: &Path| path.display().to_string();
        let fill = |part: Part<'_>| {
            Ok(match part {
                Part::Text(text) => text.to_owned(),
                Part::Out => shown(&folders.of(&self.name)),
                Part::Config => shown(&self.config_path(folders)),
                Part::File(cell, file) => shown(&folders.of(cell).join(file)),
                Part::Model(name) => {
                    let cell = cells.iter().find(|cell| cell.name == name);
                    let model = cell.and_then(|cell| folders.model(cell));
                    shown(&model.with_context(|| format!("cell {name} has no model yet"))?)
                }
            })
        };
        let word = |word: &String| parts(word)?.into_iter().map(fill).collect();
        let words = |words: &Vec<String>| words.iter().map(word).collect();
        self.commands.iter().map(words).collect::<anyhow::Result<_>>()
    }

    /// Where its settings are written, with what it changes.
    pub fn config_path(&self, folders: &Folders) -> PathBuf {
        folders.out.join(format!("{}.toml", self.name))
    }

    /// Its settings as text: the file's own, unless it changes something.
    pub fn settings(&self, folders: &Folders) -> anyhow::Result<Option<String>> {
        let Some(config) = &self.config else {
            ensure!(self.change.is_empty(), "cell {}: changes no settings' keys", self.name);
            return Ok(None);
        };
        let path = folders.runs.join(config);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        if self.change.is_empty() {
            return Ok(Some(text));
        }
        let mut settings: Table =
            toml::from_str(&text).with_context(|| path.display().to_string())?;
        for (key, value) in &self.change {
            change(&mut settings, key, value)
                .with_context(|| format!("cell {}: key {key}", self.name))?;
        }
        toml::to_string(&settings).map(Some).context("settings are no TOML")
    }
}

/// Puts a value under a dotted key; the stage refuses keys that it does not know.
fn change(settings: &mut Table, key: &str, value: &Value) -> anyhow::Result<()> {
    let Some((table, rest)) = key.split_once('.') else {
        settings.insert(key.to_owned(), value.clone());
        return Ok(());
    };
    let inner = settings.entry(table).or_insert_with(|| Value::Table(Table::new()));
    change(inner.as_table_mut().context("this is no table")?, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Vec<Cell>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cells.toml");
        std::fs::write(&path, text).unwrap();
        read_cells(&path)
    }

    const TWO: &str = r#"
        [[cell]]
        name = "a"
        says = "first"
        commands = [["pretrain", "--config", "{config}", "--out", "{out}"]]
        config = "a.toml"
        change = { "seed" = 2, "deep.rate" = 0.5 }
        result = "check.json"
        kept = "kept/a"
        [[cell]]
        name = "b"
        says = "second"
        commands = [["eval", "--slm", "{model:a}", "--in={file:a/x.jsonl}", "--out", "{out}/e"]]
        result = "report.json"
    "#;

    #[test]
    fn placeholders_are_filled_and_needs_found() {
        let cells = read(TWO).unwrap();
        assert_eq!(cells[1].needs().unwrap(), BTreeSet::from(["a".to_owned()]));
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { runs: folder.path().join("runs"), out: folder.path().join("out") };
        assert_eq!(cells[1].missing(&cells, &folders).unwrap().as_deref(), Some("a"));
        assert!(cells[1].words(&cells, &folders).is_err());
        let shown = |path: &str| folder.path().join(path).display().to_string();
        let made = folder.path().join("out/a");
        std::fs::create_dir_all(folder.path().join("runs/kept/a")).unwrap();
        let words = cells[1].words(&cells, &folders).unwrap().remove(0);
        assert_eq!(words[2], shown("runs/kept/a"), "what is kept, since nothing is made here");
        assert_eq!(words[3], format!("--in={}", shown("out/a/x.jsonl")));
        assert_eq!(words[5], shown("out/b/e"));
        // A model of a cell under way is not taken.
        std::fs::create_dir_all(made.join("model")).unwrap();
        assert_eq!(cells[1].words(&cells, &folders).unwrap()[0][2], shown("runs/kept/a"));
        std::fs::write(made.join("finished"), "").unwrap();
        assert_eq!(cells[1].words(&cells, &folders).unwrap()[0][2], shown("out/a/model"));
        assert_eq!(cells[1].missing(&cells, &folders).unwrap().as_deref(), Some("a"));
        std::fs::write(made.join("x.jsonl"), "").unwrap();
        assert_eq!(cells[1].missing(&cells, &folders).unwrap(), None);
    }

    #[test]
    fn settings_change_where_the_cell_says() {
        let cells = read(TWO).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { runs: folder.path().to_owned(), out: folder.path().to_owned() };
        let write = |text: &str| std::fs::write(folder.path().join("a.toml"), text).unwrap();
        write("seed = 1\nother = 3\n[deep]\nrate = 1.0\n");
        let changed: Table =
            toml::from_str(&cells[0].settings(&folders).unwrap().unwrap()).unwrap();
        assert_eq!(changed["seed"], Value::Integer(2));
        assert_eq!(changed["other"], Value::Integer(3));
        assert_eq!(changed["deep"]["rate"], Value::Float(0.5));
        write("seed = 1\n");
        let added: Table = toml::from_str(&cells[0].settings(&folders).unwrap().unwrap()).unwrap();
        assert_eq!(added["deep"]["rate"], Value::Float(0.5));
        write("deep = 1\n");
        let error = format!("{:#}", cells[0].settings(&folders).unwrap_err());
        assert_eq!(error, "cell a: key deep.rate: this is no table");
    }

    #[test]
    fn slips_are_found() {
        for (from, to, expected) in [
            ("{model:a}", "{model:c}", "there is no cell c before it"),
            ("{model:a}", "{modl:a}", "{modl:a}: no such placeholder"),
            ("{model:a}", "{model:a", "{model:a: no }"),
            ("\"b\"", "\"a\"", "occurs twice"),
            ("\"b\"", "\"../b\"", "its name is no file's name"),
            ("says = \"first\"", "say = \"first\"", "unknown field"),
        ] {
            let error = format!("{:#}", read(&TWO.replacen(from, to, 1)).unwrap_err());
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
