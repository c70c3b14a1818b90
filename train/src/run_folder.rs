//! What a run's folder says of how the run began: a copy of its settings, and which models and
//! problems it was given. A run goes on with the same, or not at all, and has its folder to itself.
//! Knows no stage of training.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use relay_model::ModelIdentity;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::write_aside;
use crate::dataset::Question;
use crate::evaluation::item::set_hash;

/// The file of what a run was like, a line a step.
pub const LOG: &str = "log.jsonl";
/// The file of what a run was given.
const INPUTS: &str = "inputs.json";

/// All that decides what comes out of a stage.
pub trait StageSettings: Serialize + DeserializeOwned {
    /// Under which name they are copied into a run's folder.
    const FILE: &'static str;

    /// Refuses figures that no run can have.
    fn check(&self) -> anyhow::Result<()>;
}

/// Reads and checks a stage's TOML, and copies it into the run's folder, or refuses to go on there
/// under other settings than before. The learning rate alone may be another one: lowering it is the
/// cure for a loss that is no number.
pub fn open_settings<Settings: StageSettings>(
    path: &Path,
    out: &Path,
    output: &mut impl Write,
) -> anyhow::Result<Settings> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{shown}: cannot be read: give the run's TOML"))?;
    let settings: Settings = toml::from_str(&text).with_context(|| shown.to_string())?;
    settings.check().with_context(|| shown.to_string())?;
    echo_settings(&text, &settings, out, output)?;
    Ok(settings)
}

fn echo_settings<Settings: StageSettings>(
    text: &str,
    settings: &Settings,
    out: &Path,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot be made", out.display()))?;
    let path = out.join(Settings::FILE);
    // Without a log no step was made: what was refused then may be mended.
    if out.join(LOG).exists()
        && let Ok(before) = std::fs::read_to_string(&path)
        && before != text
    {
        let rates = rates(&before, settings).with_context(|| {
            format!(
                "{}: this run began with other settings, and not only another learning_rate: go \
                 on with those, or give another --out",
                path.display()
            )
        })?;
        if let [Some(was), Some(is)] = rates
            && was != is
        {
            writeln!(output, "learning_rate is {is} from here on; it was {was}")?;
        }
    }
    write_aside(&path, text.as_bytes())
}

/// The learning rates before and now, if nothing else differs.
fn rates<Settings: StageSettings>(before: &str, now: &Settings) -> Option<[Option<Value>; 2]> {
    let before: Settings = toml::from_str(before).ok()?;
    let mut settings = [serde_json::to_value(before).ok()?, serde_json::to_value(now).ok()?];
    let rates = settings
        .each_mut()
        .map(|settings| settings.pointer_mut("/optimiser/learning_rate").map(Value::take));
    (settings[0] == settings[1]).then_some(rates)
}

/// Keeps other programs from writing into a folder as long as the file lives.
///
/// # Errors
/// If another one does, or the folder cannot be written.
pub fn hold(out: &Path) -> anyhow::Result<File> {
    let path = out.join("lock");
    let shown = path.display();
    let file = File::create(&path).with_context(|| format!("{shown}: cannot be made"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{shown}: another program writes here: wait for it, or give another --out")
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| shown.to_string()),
    }
}

/// A model or a set of problems that a run was given. Its name is for people; what is in it tells
/// it from others, wherever it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    name: String,
    hash: String,
}

impl Input {
    /// A model that was loaded.
    pub fn of_model(identity: &ModelIdentity) -> Self {
        let hash = format!("{:016x}", u64::from_be_bytes(identity.hash));
        Self { name: identity.name.clone(), hash }
    }

    /// Problems as they are asked, read from a file.
    pub fn of_problems(path: &Path, questions: &[Question]) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { name, hash: set_hash(questions) }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.name, self.hash)
    }
}

/// Notes what a run is given, by flag, or refuses to go on with anything else: its settings would
/// be the same and its outcome another. A folder from before such notes gets them now.
pub fn check_inputs(out: &Path, given: Vec<(&str, Input)>) -> anyhow::Result<()> {
    let path = out.join(INPUTS);
    let shown = path.display();
    let given: BTreeMap<String, Input> =
        given.into_iter().map(|(flag, input)| (flag.to_owned(), input)).collect();
    let before = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = serde_json::to_string_pretty(&given).context("the inputs are no JSON")?;
            return write_aside(&path, (text + "\n").as_bytes());
        }
        read => read.with_context(|| format!("{shown}: cannot be read"))?,
    };
    let before: BTreeMap<String, Input> = serde_json::from_slice(&before)
        .with_context(|| format!("{shown}: damaged: remove it to go on without this check"))?;
    for (flag, now) in &given {
        let Some(before) = before.get(flag) else { continue };
        ensure!(
            before.hash == now.hash,
            "{shown}: this run began with {flag} {before}, and is now given {now}: give what it \
             began with, or another --out"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpo::GrpoSettings;

    #[test]
    fn other_settings_need_another_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (config, out) = (folder.path().join("a.toml"), folder.path().join("out"));
        let open = |text: &str| {
            std::fs::write(&config, text).unwrap();
            open_settings::<GrpoSettings>(&config, &out, &mut std::io::sink())
        };
        let began = "seed = 1\nsteps = 2\ncheckpoint_steps = 1\n";
        open("seed = 7\nsteps = 2\ncheckpoint_steps = 1\n").unwrap();
        // No step was made with those.
        open(began).unwrap();
        std::fs::write(out.join(LOG), "{}\n").unwrap();
        // What it began with, said at length.
        open(&format!("{began}policy = \"learned\" # as ever\n")).unwrap();
        for other in [began.replace("seed = 1", "seed = 2"), format!("{began}updates = 2\n")] {
            let error = open(&other).unwrap_err().to_string();
            assert!(error.contains("give another --out"), "{error}");
        }
    }

    #[test]
    fn a_folder_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let held = hold(folder.path()).unwrap();
        let error = hold(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another program writes here"), "{error}");
        drop(held);
        hold(folder.path()).unwrap();
    }

    #[test]
    fn other_inputs_need_another_folder() {
        let model = |name: &str, hash| {
            let name = name.to_owned();
            ("--llm", Input::of_model(&ModelIdentity { name, hash: [hash; 8] }))
        };
        let question = |text: &str| Question { text: text.to_owned(), gold: "1".to_owned() };
        let problems = |path: &str, text: &str| {
            ("--problems", Input::of_problems(Path::new(path), &[question(text)]))
        };
        let folder = tempfile::tempdir().unwrap();
        let check = |given| check_inputs(folder.path(), given);
        check(vec![model("a", 1), problems("x/p.jsonl", "q")]).unwrap();
        // The same under another name.
        check(vec![model("b", 1), problems("y/r.jsonl", "q")]).unwrap();
        let error = check(vec![model("b", 2), problems("p", "q")]).unwrap_err().to_string();
        let expected = "began with --llm a (0101010101010101), and is now given b \
                        (0202020202020202): give what it began with, or another --out";
        assert!(error.contains(expected), "{error}");
        let error = check(vec![model("a", 1), problems("p", "r")]).unwrap_err().to_string();
        assert!(error.contains("began with --problems p.jsonl ("), "{error}");
    }
}
