//! What lies in deploy/ is true: the sample settings load, are valid, name every key and give its
//! default. Starts nothing.

#![allow(clippy::unwrap_used, reason = "what cannot be read has failed")]

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use relay_chassis::settings::load_from;
use relay_cloud::CloudSettings;
use relay_edge::config::{EdgeSettings, PromptSettings};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config").join(name)
}

/// Keys of a table, those of tables inside it with their full name.
fn keys(table: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (name, value) in table {
        match value.as_table() {
            Some(inner) => names.extend(keys(inner).iter().map(|key| format!("{name}.{key}"))),
            None => drop(names.insert(name.clone())),
        }
    }
    names
}

/// Every key a sample names, also those it leaves unset (`#key = value`, without a blank).
fn keys_named(text: &str) -> BTreeSet<String> {
    let set = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let all: Vec<String> = text.lines().map(set).collect();
    keys(&all.join("\n").parse().unwrap())
}

/// Every key there is: of settings whose optional keys are all set.
fn keys_there_are(settings: &impl serde::Serialize) -> BTreeSet<String> {
    keys(&toml::Table::try_from(settings).unwrap())
}

fn load<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let no_flags = toml::Table::new();
    load_from(Some(path), "RELAY_TEST_", [], &no_flags).unwrap()
}

#[test]
fn the_clouds_sample_gives_every_key_and_its_default() {
    let path = sample("cloud.toml");
    let loaded: CloudSettings = load(&path);
    loaded.validate().unwrap();
    let everything = CloudSettings {
        probes_listen: Some(loaded.listen),
        context_tokens_max: Some(1),
        threads: Some(NonZero::<usize>::MIN),
        ..loaded.clone()
    };
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(keys_named(&text), keys_there_are(&everything));
    let defaults = CloudSettings {
        listen: loaded.listen,
        model: loaded.model.clone(),
        tls_certificate: loaded.tls_certificate.clone(),
        tls_key: loaded.tls_key.clone(),
        tls_authority: loaded.tls_authority.clone(),
        ..CloudSettings::default()
    };
    assert_eq!(loaded, defaults);
}

#[test]
fn the_edges_sample_gives_every_key_and_its_default() {
    let path = sample("edge.toml");
    let loaded: EdgeSettings = load(&path);
    loaded.validate().unwrap();
    let everything = EdgeSettings {
        seed: Some(1),
        warm_sync_tokens: Some(1),
        threads: Some(NonZero::<usize>::MIN),
        probes_listen: Some(([127, 0, 0, 1], 1).into()),
        prompt: PromptSettings { thinking: Some(true) },
        ..loaded.clone()
    };
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(keys_named(&text), keys_there_are(&everything));
    let defaults = EdgeSettings {
        model: loaded.model.clone(),
        clouds: loaded.clouds.clone(),
        tls: loaded.tls.clone(),
        ..EdgeSettings::default()
    };
    assert_eq!(loaded, defaults);
}
