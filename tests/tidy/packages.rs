//! Licences and bans of everything in the lock file, as deny.toml lists them: the same rules as
//! cargo-deny's, for machines that do not have it. Reads no network: `cargo metadata --offline`.

use std::process::Command;

use serde_json::Value;
use toml::Table;

use crate::tree::root;

struct Package {
    name: String,
    licence: String,
}

fn read_toml(name: &str) -> Table {
    let text = std::fs::read_to_string(root().join(name)).expect("the file can be read");
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn strings(value: &toml::Value, key: Option<&str>) -> Vec<String> {
    let entries = value.as_array().expect("an array");
    let text = |entry: &toml::Value| match key {
        Some(key) => entry[key].as_str().expect("a string").to_owned(),
        None => entry.as_str().expect("a string").to_owned(),
    };
    entries.iter().map(text).collect()
}

fn agreed_licences() -> Vec<String> {
    strings(&read_toml("deny.toml")["licenses"]["allow"], None)
}

fn banned_packages() -> Vec<String> {
    strings(&read_toml("deny.toml")["bans"]["deny"], Some("name"))
}

/// The machine this runs on, as rustc names it: packages of other platforms may not be there.
fn host() -> String {
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8(rustc.stdout).expect("rustc prints UTF-8");
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

/// Every package that a build on this machine uses, ours left out.
fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version=1", "--filter-platform"])
        .arg(host())
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages is an array");
    let foreign = packages.iter().filter(|package| !package["source"].is_null());
    let read = |package: &Value| Package {
        name: package["name"].as_str().unwrap_or_default().to_owned(),
        licence: package["license"].as_str().unwrap_or_default().to_owned(),
    };
    foreign.map(read).collect()
}

fn unagreed(packages: &[Package], agreed: &[String]) -> Vec<String> {
    packages
        .iter()
        .filter(|package| !is_agreed(&package.licence, agreed))
        .map(|package| format!("{}: {:?}", package.name, package.licence))
        .collect()
}

fn banned(lock: &Table, bans: &[String]) -> Vec<String> {
    let packages = lock["package"].as_array().expect("package is an array");
    let names = packages.iter().filter_map(|package| package["name"].as_str());
    names.filter(|name| bans.iter().any(|ban| ban == name)).map(str::to_owned).collect()
}

/// Is an SPDX expression satisfied by licences of the list? (`/` is the old way to write OR.)
fn is_agreed(expression: &str, agreed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let holds = any_of(&words, &mut at, agreed);
    holds && at == words.len()
}

/// `a OR b OR …`
fn any_of(words: &[&str], at: &mut usize, agreed: &[String]) -> bool {
    let mut holds = all_of(words, at, agreed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        // Not short-circuited: the words have to be consumed.
        holds |= all_of(words, at, agreed);
    }
    holds
}

/// `a AND b AND …`, which binds tighter than OR.
fn all_of(words: &[&str], at: &mut usize, agreed: &[String]) -> bool {
    let mut holds = one_licence(words, at, agreed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one_licence(words, at, agreed);
    }
    holds
}

/// `(…)`, `a` or `a WITH exception`.
fn one_licence(words: &[&str], at: &mut usize, agreed: &[String]) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let holds = any_of(words, at, agreed);
        *at += 1;
        return holds && words.get(*at - 1) == Some(&")");
    }
    let mut licence = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    agreed.contains(&licence)
}

#[test]
fn every_licence_is_on_the_agreed_list() {
    let packages = packages();
    assert!(packages.len() > 50, "only {} packages: the list must be wrong", packages.len());
    crate::assert_none(
        "licences not on deny.toml's list",
        &unagreed(&packages, &agreed_licences()),
    );
}

#[test]
fn a_licence_not_agreed_on_is_found() {
    let agreed = ["MIT", "ISC", "A WITH B"].map(String::from);
    let cases = [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT AND ISC", true),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("GPL-3.0 OR MIT AND LGPL-3.0", false),
        ("A WITH B", true),
        ("A", false),
        ("MIT WITH B", false),
        ("(MIT", false),
    ];
    for (expression, expected) in cases {
        assert_eq!(is_agreed(expression, &agreed), expected, "{expression}");
    }
    let package = Package { name: "x".into(), licence: "GPL-3.0".into() };
    assert_eq!(unagreed(&[package], &agreed), ["x: \"GPL-3.0\""]);
}

#[test]
fn no_banned_package_is_locked() {
    crate::assert_none(
        "banned by deny.toml",
        &banned(&read_toml("Cargo.lock"), &banned_packages()),
    );
}

#[test]
fn a_banned_package_is_found() {
    let lock = "[[package]]\nname = 'openssl'\n[[package]]\nname = 'ring'".parse().expect("TOML");
    assert_eq!(banned(&lock, &banned_packages()), ["openssl"]);
}
