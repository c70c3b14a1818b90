//! Settings of a program in layers: defaults < TOML file < environment < flags. Knows no key of
//! any program; each program brings its own struct.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use figment::error::{Actual, Kind};
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest settings file in bytes: past it the path surely names something else.
pub const SETTINGS_FILE_BYTES_MAX: u64 = 1 << 20;

/// The variable `<prefix>CONFIG` names the settings file, for a flag of the program to read: it is
/// no key itself.
const FILE_VARIABLE: &str = "CONFIG";

/// Between the parts of a nested key in a variable's name.
const NESTING: &str = "__";

/// How alike two keys must be (1 is equal) for one to be offered in place of the other.
const NEAREST_LIKENESS_MIN: f64 = 0.7;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The settings file.
    File(PathBuf),
    /// An environment variable, by its full name.
    Variable(String),
    /// A command line flag.
    Flag(String),
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the environment variable {name}"),
            Self::Flag(name) => write!(f, "on the command line as {name}"),
            Self::Default => f.write_str("in the defaults"),
        }
    }
}

/// Why settings could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error(
        "the settings file {} cannot be read: {source}; give the path of a readable TOML file, or \
         none to run on defaults", path.display()
    )]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is larger than [`SETTINGS_FILE_BYTES_MAX`].
    #[error(
        "the settings file {} is over {SETTINGS_FILE_BYTES_MAX} bytes: is it another file?",
        path.display()
    )]
    FileTooLarge {
        /// Its path.
        path: PathBuf,
    },
    /// The file is not TOML.
    #[error("the settings file {} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// Line, column and what was expected there.
        reason: String,
    },
    /// A key that no setting has.
    #[error("unknown setting `{key}` {origin}{}", advice(nearest.as_deref(), variable.as_deref()))]
    UnknownKey {
        /// The full key, parts joined by dots.
        key: String,
        /// Who set it.
        origin: Origin,
        /// The known key most like it.
        nearest: Option<String>,
        /// The variable of that key, where a variable set the unknown one.
        variable: Option<String>,
    },
    /// A value that the key cannot take.
    #[error("the setting `{key}` {origin} is wrong: {reason}")]
    Invalid {
        /// The full key, parts joined by dots.
        key: String,
        /// Who set it.
        origin: Origin,
        /// What it is and what it may be.
        reason: String,
    },
    /// A key without default that nobody set.
    #[error("the setting `{key}` is missing: set it in the file or as {variable}")]
    Missing {
        /// The full key, parts joined by dots.
        key: String,
        /// The variable that would set it.
        variable: String,
    },
    /// A variable whose value is not UTF-8.
    #[error("the environment variable {name} is not valid UTF-8: set it again or unset it")]
    NotUnicode {
        /// Its full name.
        name: String,
    },
    /// The program's own flags could not be read as settings: a fault of the program.
    #[error("the command line flags cannot be read as settings: {reason}")]
    Flags {
        /// What serde says.
        reason: String,
    },
}

fn advice(nearest: Option<&str>, variable: Option<&str>) -> String {
    match (nearest, variable) {
        (Some(known), Some(variable)) => format!(": did you mean `{known}`, set by {variable}?"),
        (Some(known), None) => format!(": did you mean `{known}`?"),
        (None, _) => ": remove it, or look at the settings in --help".to_owned(),
    }
}

/// Loads settings in layers, each over the one before: the defaults of `T`, the TOML `file` if one
/// is named, the environment (`<env_prefix>KEY`, nested keys joined by `__`), then `flags`, of
/// which those that are `None` override nothing.
///
/// `T` must carry `#[serde(default, deny_unknown_fields)]`, and so must each struct inside it: that
/// is what refuses unknown keys. `env_prefix` ends with an underscore (`RELAY_EDGE_`). Values of
/// variables are read as TOML where they are one and as text otherwise, so a text of digits needs
/// quotes inside the value.
///
/// # Errors
/// [`SettingsError`], which names the key, where it came from and the nearest known key.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    flags: &impl Serialize,
) -> Result<T, SettingsError> {
    load_from(file, env_prefix, std::env::vars_os(), flags)
}

/// As [`load`], with the environment given by the caller.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    flags: &impl Serialize,
) -> Result<T, SettingsError> {
    let mut layers = Layers { env_prefix: env_prefix.to_owned(), layers: Vec::new() };
    if let Some(path) = file {
        layers.push(Source::File(path.to_owned()), read_file(path)?);
    }
    for (name, value) in variables {
        layers.push_variable(&name, &value)?;
    }
    layers.push(Source::Flags, set_flags(flags)?);
    layers.extract()
}

fn read_file(path: &Path) -> Result<Dict, SettingsError> {
    let unreadable = |source| SettingsError::File { path: path.to_owned(), source };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SETTINGS_FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > SETTINGS_FILE_BYTES_MAX {
        return Err(SettingsError::FileTooLarge { path: path.to_owned() });
    }
    Figment::from(Toml::string(&text)).extract().map_err(|error| SettingsError::Syntax {
        path: path.to_owned(),
        reason: error.kind.to_string().trim_end().to_owned(),
    })
}

/// The flags that were given, without those left unset.
fn set_flags(flags: &impl Serialize) -> Result<Dict, SettingsError> {
    let refuse = |reason: String| SettingsError::Flags { reason };
    let value = Value::serialize(flags).map_err(|error| refuse(error.to_string()))?;
    match without_unset(value) {
        None => Ok(Dict::new()),
        Some(Value::Dict(_, dict)) => Ok(dict),
        Some(_) => Err(refuse("flags must be a struct".to_owned())),
    }
}

/// A value without its `None`s; a dictionary that held nothing else goes too.
fn without_unset(value: Value) -> Option<Value> {
    match value {
        Value::Empty(..) => None,
        Value::Dict(tag, dict) => {
            let kept: Dict = dict
                .into_iter()
                .filter_map(|(key, value)| Some((key, without_unset(value)?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Dict(tag, kept))
        }
        other => Some(other),
    }
}

enum Source {
    File(PathBuf),
    Variable(String),
    Flags,
}

/// What was set, lowest precedence first.
struct Layers {
    env_prefix: String,
    layers: Vec<(Source, Dict)>,
}

impl Layers {
    fn push(&mut self, source: Source, values: Dict) {
        self.layers.push((source, values));
    }

    fn push_variable(&mut self, name: &OsString, value: &OsString) -> Result<(), SettingsError> {
        let Some(name) = name.to_str() else {
            return Ok(());
        };
        let Some(key) = name.strip_prefix(&self.env_prefix) else {
            return Ok(());
        };
        if key == FILE_VARIABLE || key.is_empty() {
            return Ok(());
        }
        let Some(value) = value.to_str() else {
            return Err(SettingsError::NotUnicode { name: name.to_owned() });
        };
        let Ok(value) = value.parse::<Value>();
        let path: Vec<String> = key.split(NESTING).map(str::to_lowercase).collect();
        self.push(Source::Variable(name.to_owned()), nest(&path, value));
        Ok(())
    }

    fn extract<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let figment = self.layers.iter().fold(Figment::new(), |figment, (_, values)| {
            figment.merge(Serialized::from(values, Profile::Default))
        });
        figment.extract().map_err(|error| self.explain(error))
    }

    fn explain(&self, error: figment::Error) -> SettingsError {
        let mut path = error.path;
        match error.kind {
            // Here alone the path already ends with the key.
            Kind::UnknownField(key, known) => self.unknown_key(&path, &key, known),
            Kind::MissingField(key) => {
                path.push(key.into_owned());
                SettingsError::Missing { key: path.join("."), variable: self.variable(&path) }
            }
            kind => SettingsError::Invalid {
                key: path.join("."),
                origin: self.origin(&path),
                reason: plain(&kind),
            },
        }
    }

    fn unknown_key(&self, path: &[String], key: &str, known: &[&str]) -> SettingsError {
        let origin = self.origin(path);
        let is_variable = matches!(origin, Origin::Variable(_));
        let inside = if is_variable { key_inside(key, known) } else { None };
        let near = inside.or_else(|| nearest(key, known).map(|near| vec![near.to_owned()]));
        let near = near.map(|near| {
            let outer = path.iter().take(path.len().saturating_sub(1)).cloned();
            outer.chain(near).collect::<Vec<_>>()
        });
        SettingsError::UnknownKey {
            origin,
            key: path.join("."),
            variable: near.as_ref().filter(|_| is_variable).map(|near| self.variable(near)),
            nearest: near.map(|near| near.join(".")),
        }
    }

    /// The highest layer that holds the key.
    fn origin(&self, path: &[String]) -> Origin {
        let holder = self.layers.iter().rev().find(|(_, dict)| holds(dict, path));
        match holder.map(|(source, _)| source) {
            Some(Source::File(path)) => Origin::File(path.clone()),
            Some(Source::Variable(name)) => Origin::Variable(name.clone()),
            Some(Source::Flags) => Origin::Flag(format!("--{}", path.join("-").replace('_', "-"))),
            None => Origin::Default,
        }
    }

    fn variable(&self, path: &[String]) -> String {
        format!("{}{}", self.env_prefix, path.join(NESTING).to_uppercase())
    }
}

fn nest(path: &[String], value: Value) -> Dict {
    match path {
        [] => Dict::new(),
        [key] => Dict::from([(key.clone(), value)]),
        [key, rest @ ..] => Dict::from([(key.clone(), Value::from(nest(rest, value)))]),
    }
}

fn holds(dict: &Dict, path: &[String]) -> bool {
    match path {
        [] => true,
        [key, rest @ ..] => match dict.get(key) {
            Some(Value::Dict(_, inner)) => holds(inner, rest),
            // An element of a list has no layer of its own: the list's is right for it.
            Some(Value::Array(..)) => true,
            Some(_) => rest.is_empty(),
            None => false,
        },
    }
}

/// The nested key that was meant where a variable joins its parts by one underscore.
fn key_inside(key: &str, known: &[&str]) -> Option<Vec<String>> {
    let tables = known.iter().filter_map(|table| {
        let inner = key.strip_prefix(table)?.strip_prefix('_')?;
        Some(vec![(*table).to_owned(), inner.to_owned()])
    });
    tables.filter(|parts| !parts[1].is_empty()).max_by_key(|parts| parts[0].len())
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |candidate: &&str| strsim::jaro_winkler(key, candidate);
    known
        .iter()
        .copied()
        .max_by(|left, right| likeness(left).total_cmp(&likeness(right)))
        .filter(|best| likeness(best) >= NEAREST_LIKENESS_MIN)
}

/// The reason without the library's words for types that settings do not have.
fn plain(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(Actual::Unsigned(_) | Actual::Signed(_), expected)
            if expected.contains("string") =>
        {
            format!("{kind}; put the digits in quotes")
        }
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        name: String,
        calls_max: u32,
        model: Model,
        endpoints: Vec<String>,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self {
                name: "default".to_owned(),
                calls_max: 1,
                model: Model::default(),
                endpoints: Vec::new(),
            }
        }
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Model {
        context_tokens: u32,
        path: Option<PathBuf>,
    }

    #[derive(Default, Serialize)]
    struct Flags {
        name: Option<String>,
        calls_max: Option<i64>,
        model: FlagsOfModel,
    }

    #[derive(Default, Serialize)]
    struct FlagsOfModel {
        context_tokens: Option<u32>,
    }

    fn sample(
        file: Option<&str>,
        variables: &[(&str, &str)],
        flags: &Flags,
    ) -> Result<Sample, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.toml");
        let file = file.map(|text| {
            std::fs::write(&path, text).unwrap();
            path.as_path()
        });
        let variables =
            variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        load_from(file, "SAMPLE_", variables, flags)
    }

    #[test]
    fn each_layer_overrides_the_one_before() {
        let file = "name = \"file\"\ncalls_max = 2\n[model]\ncontext_tokens = 2\npath = \"file\"";
        let variables = [("SAMPLE_CALLS_MAX", "3"), ("SAMPLE_MODEL__CONTEXT_TOKENS", "3")];
        let flags = Flags { model: FlagsOfModel { context_tokens: Some(4) }, ..Flags::default() };
        let loaded = sample(Some(file), &variables, &flags).unwrap();
        assert_eq!(loaded.name, "file");
        assert_eq!(loaded.calls_max, 3);
        assert_eq!(loaded.model.context_tokens, 4);
        assert_eq!(loaded.model.path, Some("file".into()));
        assert_eq!(loaded.endpoints, Vec::<String>::new());
    }

    #[test]
    fn nothing_set_gives_the_defaults() {
        let others = [("OTHER_NAME", "x"), ("SAMPLE_CONFIG", "/etc/sample.toml")];
        assert_eq!(sample(None, &others, &Flags::default()).unwrap(), Sample::default());
    }

    #[test]
    fn variables_may_hold_lists_and_text() {
        let variables = [
            ("SAMPLE_ENDPOINTS", "[\"https://a:1\", \"https://b:2\"]"),
            ("SAMPLE_NAME", "a plain text"),
        ];
        let loaded = sample(None, &variables, &Flags::default()).unwrap();
        assert_eq!(loaded.endpoints, ["https://a:1", "https://b:2"]);
        assert_eq!(loaded.name, "a plain text");
    }

    /// The message for what was set must hold each part.
    fn check(file: &str, variable: Option<(&str, &str)>, flags: &Flags, parts: [&str; 2]) {
        let variables: Vec<_> = variable.into_iter().collect();
        let error = sample(Some(file), &variables, flags).unwrap_err();
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_origin_and_the_nearest() {
        for (file, variable, parts) in [
            (
                "[model]\ncontxt_tokens = 1",
                None,
                ["`model.contxt_tokens` in /", "mean `model.context_tokens`"],
            ),
            ("zzz = 1", None, ["unknown setting `zzz` in /", "remove it"]),
            (
                "name = 'ok'",
                Some(("SAMPLE_CALS_MAX", "1")),
                ["`cals_max` in the environment variable SAMPLE_CALS_MAX", "mean `calls_max`"],
            ),
            (
                "",
                Some(("SAMPLE_MODEL__PATHS", "x")),
                ["`model.paths` in the environment variable SAMPLE_MODEL__P", "`model.path`"],
            ),
            (
                "",
                Some(("SAMPLE_MODEL_CONTEXT_TOKENS", "1")),
                ["`model.context_tokens`", "set by SAMPLE_MODEL__CONTEXT_TOKENS?"],
            ),
        ] {
            check(file, variable, &Flags::default(), parts);
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_origin() {
        let negative = Flags { calls_max: Some(-1), ..Flags::default() };
        let parts = ["`calls_max` on the command line as --calls-max", "-1"];
        check("calls_max = 1", None, &negative, parts);
        for (file, variable, parts) in [
            ("calls_max = 'many'", None, ["`calls_max` in /", "\"many\", expected u32"]),
            ("[model]\ncontext_tokens = 'x'", None, ["`model.context_tokens` in /", "sample.toml"]),
            (
                "calls_max = 1",
                Some(("SAMPLE_CALLS_MAX", "-1")),
                ["`calls_max` in the environment variable SAMPLE_CALLS_MAX", "-1"],
            ),
            ("", Some(("SAMPLE_NAME", "12")), ["SAMPLE_NAME", "in quotes"]),
            ("name = ", None, ["sample.toml is not valid TOML", "line 1"]),
        ] {
            check(file, variable, &Flags::default(), parts);
        }
    }

    #[test]
    fn a_named_file_must_be_there_and_be_small() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.toml");
        let load = |path: &Path| load_from::<Sample>(Some(path), "SAMPLE_", [], &Flags::default());
        let error = load(&missing).unwrap_err();
        assert!(matches!(error, SettingsError::File { .. }), "{error}");
        assert!(error.to_string().contains("missing.toml"), "{error}");

        let large = folder.path().join("large.toml");
        let bytes = usize::try_from(SETTINGS_FILE_BYTES_MAX).unwrap() + 1;
        std::fs::write(&large, "#".repeat(bytes)).unwrap();
        let error = load(&large).unwrap_err();
        assert!(matches!(error, SettingsError::FileTooLarge { .. }), "{error}");
    }

    #[test]
    fn a_key_without_default_is_asked_for() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only its absence is read")]
        struct Strict {
            needed: String,
        }
        let error = load_from::<Strict>(None, "SAMPLE_", [], &Flags::default()).unwrap_err();
        assert!(error.to_string().contains("SAMPLE_NEEDED"), "{error}");
    }
}
