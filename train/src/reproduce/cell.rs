//! The cells of the matrix, as data: what `cells.toml` says of each, and the words of its commands
//! once every placeholder is filled. Runs nothing.
//!
//! A word may hold `{out}` (the cell's own folder), `{config}` (its settings, with what the cell
//! changes in them), `{model:CELL}` (the model another cell made) and `{file:CELL/NAME}` (a file of
//! another cell). A cell needs those that it names.
//!
//! Policies are taught and evaluated alike: `[[policy_cell]]` says how, with the policy's own
//! `{name}`, `{says}`, `{from}`, `{llm}`, `{problems}`, `{contenders}` and `{eval_flags}` (a word for
//! each), and each `[[policy]]` becomes one cell of each. Cells that need policies stand in `[[closing_cell]]`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use toml::{Table, Value};

use crate::checkpoint::write_aside;

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

/// A policy, as far as it differs from others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    name: String,
    says: String,
    /// The cell whose model it starts as.
    #[serde(default = "warmed_up")]
    from: String,
    /// The cell whose model teaches it.
    #[serde(default = "trained_llm")]
    llm: String,
    /// The file of its problems, in the cells that draw them.
    #[serde(default = "kept_problems")]
    problems: String,
    /// What it is compared with, as `eval --policies` takes them.
    #[serde(default = "few_contenders")]
    contenders: String,
    /// Flags of its evaluation.
    #[serde(default)]
    eval_flags: Vec<String>,
    /// As of a [`Cell`], for those of its cells that have settings.
    #[serde(default)]
    change: Table,
    /// As of a [`Cell`].
    group: Option<String>,
}

fn warmed_up() -> String {
    "warmup".into()
}

fn trained_llm() -> String {
    "pretrain-llm".into()
}

fn kept_problems() -> String {
    "kept.jsonl".into()
}

fn few_contenders() -> String {
    "slm_alone,llm_alone,relay,teacher_free".into()
}

impl Policy {
    /// One of its cells.
    fn cell(&self, template: &Cell) -> Cell {
        let own = [
            ("{name}", &self.name),
            ("{says}", &self.says),
            ("{from}", &self.from),
            ("{llm}", &self.llm),
            ("{problems}", &self.problems),
            ("{contenders}", &self.contenders),
        ];
        let fill = |text: &String| {
            own.iter().fold(text.clone(), |text, (mark, value)| text.replace(mark, value))
        };
        let words = |word: &String| match word.as_str() {
            "{eval_flags}" => self.eval_flags.clone(),
            _ => vec![fill(word)],
        };
        let command = |command: &Vec<String>| command.iter().flat_map(words).collect();
        Cell {
            name: fill(&template.name),
            says: fill(&template.says),
            commands: template.commands.iter().map(command).collect(),
            change: template.config.as_ref().map_or_else(Table::new, |_| self.change.clone()),
            group: self.group.clone(),
            ..template.clone()
        }
    }
}

/// All of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellFile {
    cell: Vec<Cell>,
    #[serde(default)]
    policy_cell: Vec<Cell>,
    #[serde(default)]
    policy: Vec<Policy>,
    #[serde(default)]
    closing_cell: Vec<Cell>,
}

impl CellFile {
    /// In the order in which they run.
    fn cells(self) -> Vec<Cell> {
        let Self { mut cell, policy_cell, policy, closing_cell } = self;
        for policy in &policy {
            cell.extend(policy_cell.iter().map(|template| policy.cell(template)));
        }
        cell.extend(closing_cell);
        cell
    }
}

/// Reads the cells, and sees that each names only cells before it.
pub fn read_cells(path: &Path) -> anyhow::Result<Vec<Cell>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("{shown}: cannot be read: run from the checkout's root, or give --runs")
    })?;
    let file: CellFile = toml::from_str(&text).with_context(|| shown.to_string())?;
    let cells = file.cells();
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

    /// The model that a cell made here, else the one that is kept.
    pub fn model(&self, cell: &Cell, cells: &[Cell]) -> anyhow::Result<Option<PathBuf>> {
        let made = self.of(&cell.name).join("model");
        let kept = cell.kept.as_ref().map(|kept| self.runs.join(kept));
        let is_made = made.exists() && cell.is_finished(cells, self)?;
        Ok(if is_made { Some(made) } else { kept.filter(|kept| kept.exists()) })
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

/// The cell of this name.
pub(super) fn named<'a>(cells: &'a [Cell], name: &str) -> anyhow::Result<&'a Cell> {
    let cell = cells.iter().find(|cell| cell.name == name);
    cell.with_context(|| format!("there is no cell {name}"))
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
                        (name, folders.model(named(cells, name)?, cells)?.is_some())
                    }
                    Part::File(name, file) => {
                        let is_there = folders.of(name).join(file).exists();
                        (name, is_there && named(cells, name)?.is_finished(cells, folders)?)
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
                    let model = folders.model(named(cells, name)?, cells)?;
                    shown(&model.with_context(|| format!("cell {name} has no model yet"))?)
                }
            })
        };
        let word = |word: &String| parts(word)?.into_iter().map(fill).collect();
        let words = |words: &Vec<String>| words.iter().map(word).collect();
        self.commands.iter().map(words).collect::<anyhow::Result<_>>()
    }

    /// What its result comes of: commands, settings, and a hash of the same of each cell that it
    /// needs.
    pub fn recipe(&self, cells: &[Self], folders: &Folders) -> anyhow::Result<Map<String, Json>> {
        let settings = self.settings(folders)?;
        let settings = settings.as_deref().map(toml::from_str::<Table>).transpose()?;
        let mut needs = Map::new();
        for need in self.needs()? {
            let recipe = named(cells, &need)?.recipe(cells, folders)?;
            let hash = blake3::hash(&serde_json::to_vec(&recipe)?).to_hex();
            needs.insert(need, json!(hash[..16]));
        }
        let recipe = [
            ("commands", json!(self.commands)),
            ("settings", json!(settings)),
            ("needs", Json::Object(needs)),
        ];
        Ok(recipe.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    }

    /// Makes its folder, with its recipe in it. What another recipe began there goes aside.
    pub fn begin(&self, cells: &[Self], folders: &Folders) -> anyhow::Result<()> {
        let (own, recipe) = (folders.of(&self.name), self.recipe(cells, folders)?);
        let recipe = serde_json::to_vec_pretty(&recipe)?;
        let note = own.join("recipe.json");
        if std::fs::read(&note).is_ok_and(|before| before != recipe) {
            let aside = own.with_added_extension("before");
            if aside.exists() {
                std::fs::remove_dir_all(&aside)
                    .with_context(|| format!("{}: cannot be removed", aside.display()))?;
            }
            std::fs::rename(&own, &aside)
                .with_context(|| format!("{}: cannot be put aside", own.display()))?;
        }
        std::fs::create_dir_all(&own)
            .with_context(|| format!("{}: cannot be made", own.display()))?;
        write_aside(&note, &recipe)
    }

    /// Says that all of its commands are done.
    pub fn mark_finished(&self, folders: &Folders) -> anyhow::Result<()> {
        write_aside(&folders.of(&self.name).join("finished"), b"")
    }

    /// Whether all of its commands are done, by the recipe that it has now.
    pub fn is_finished(&self, cells: &[Self], folders: &Folders) -> anyhow::Result<bool> {
        let own = folders.of(&self.name);
        let Ok(begun) = std::fs::read(own.join("recipe.json")) else { return Ok(false) };
        let recipe = serde_json::to_vec_pretty(&self.recipe(cells, folders)?)?;
        Ok(own.join("finished").exists() && begun == recipe)
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
        let write = |text: &str| std::fs::write(folders.runs.join("a.toml"), text).unwrap();
        write("[deep]\n");
        cells[0].begin(&cells, &folders).unwrap();
        cells[0].mark_finished(&folders).unwrap();
        assert_eq!(cells[1].words(&cells, &folders).unwrap()[0][2], shown("out/a/model"));
        assert_eq!(cells[1].missing(&cells, &folders).unwrap().as_deref(), Some("a"));
        std::fs::write(made.join("x.jsonl"), "").unwrap();
        assert_eq!(cells[1].missing(&cells, &folders).unwrap(), None);
        // Nor one of other settings.
        write("[deep]\nrate = 2.0\nother = 1\n");
        assert_eq!(cells[1].missing(&cells, &folders).unwrap().as_deref(), Some("a"));
        let needs = |cell: &Cell| cell.recipe(&cells, &folders).unwrap()["needs"].clone();
        let before = needs(&cells[1]);
        write("[deep]\nrate = 3.0\nother = 2\n");
        assert_ne!(needs(&cells[1]), before, "what it needs comes of other settings");
        // What was made goes aside, and is there.
        cells[0].begin(&cells, &folders).unwrap();
        assert!(!made.join("x.jsonl").exists());
        assert!(folder.path().join("out/a.before/x.jsonl").exists());
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
    fn each_policy_has_its_cells() {
        let policies = r#"
            [[policy_cell]]
            name = "grpo-{name}"
            says = "{says}: taught"
            commands = [["grpo", "{config}", "{model:{from}}", "{file:a/{problems}}", "{out}"]]
            config = "grpo.toml"
            result = "check.json"
            [[policy_cell]]
            name = "eval-{name}"
            says = "{says}: tried"
            commands = [["eval", "{model:grpo-{name}}", "{contenders}", "{eval_flags}"]]
            result = "report.json"
            [[policy]]
            name = "x"
            says = "one"
            from = "a"
            change = { seed = 3 }
            group = "both"
            [[policy]]
            name = "y"
            says = "another"
            from = "b"
            problems = "drawn.jsonl"
            contenders = "relay"
            eval_flags = ["--fixed", "9"]
            [[closing_cell]]
            name = "swap"
            says = "with another teacher"
            commands = [["eval", "{model:grpo-x}", "{model:a}"]]
            result = "report.json"
        "#;
        let cells = read(&(TWO.to_owned() + policies)).unwrap();
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "grpo-x", "eval-x", "grpo-y", "eval-y", "swap"]);
        assert_eq!(
            cells[2].commands,
            [["grpo", "{config}", "{model:a}", "{file:a/kept.jsonl}", "{out}"]]
        );
        assert_eq!(cells[2].change["seed"], Value::Integer(3));
        assert_eq!((cells[3].says.as_str(), cells[3].change.len()), ("one: tried", 0));
        assert_eq!(cells[3].group.as_deref(), Some("both"));
        assert_eq!(cells[4].commands[0][2..4], ["{model:b}", "{file:a/drawn.jsonl}"]);
        assert_eq!(cells[5].commands, [["eval", "{model:grpo-y}", "relay", "--fixed", "9"]]);
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
