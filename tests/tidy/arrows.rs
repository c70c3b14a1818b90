//! Which crate may depend on which: the picture of docs/ARCHITECTURE.md, held against the
//! manifests so that it cannot rot.

use std::collections::BTreeSet;

use toml::Table;

use crate::tree::root;

/// What one crate may depend on.
struct Arrows {
    folder: &'static str,
    package: &'static str,
    /// Crates of ours, its tests included.
    ours: &'static [&'static str],
    outside: Outside,
}

/// What a crate may use of other people's packages.
enum Outside {
    /// Nothing but these; tests may use more.
    Only(&'static [&'static str]),
    /// Anything but those whose name begins so; tests neither.
    Without(&'static [&'static str]),
}

const PROGRAM: &[&str] = &["relay", "relay-model", "relay-chassis", "relay-proto"];
const TENSORS: &[&str] = &["candle", "tokenizers"];

const ARROWS: [Arrows; 11] = [
    Arrows {
        folder: "shared/relay",
        package: "relay",
        ours: &[],
        outside: Outside::Only(&["thiserror", "blake3"]),
    },
    Arrows {
        folder: "shared/kernels",
        package: "relay-kernels",
        ours: &[],
        outside: Outside::Only(&["memmap2"]),
    },
    Arrows {
        folder: "shared/model",
        package: "relay-model",
        ours: &["relay-kernels"],
        outside: Outside::Without(&["tokio", "tonic", "prost", "hyper", "axum", "rustls"]),
    },
    Arrows {
        folder: "shared/chassis",
        package: "relay-chassis",
        ours: &[],
        outside: Outside::Without(TENSORS),
    },
    Arrows {
        folder: "proto",
        package: "relay-proto",
        ours: &["relay"],
        outside: Outside::Without(TENSORS),
    },
    Arrows {
        folder: "edge",
        package: "relay-edge",
        ours: PROGRAM,
        outside: Outside::Without(TENSORS),
    },
    Arrows {
        folder: "cloud",
        package: "relay-cloud",
        ours: PROGRAM,
        outside: Outside::Without(TENSORS),
    },
    Arrows {
        folder: "train",
        package: "relay-train",
        ours: &["relay", "relay-model", "relay-chassis", "relay-proto", "relay-edge"],
        outside: Outside::Without(&[]),
    },
    Arrows {
        folder: "bench",
        package: "relay-bench",
        ours: &["relay-edge", "relay-cloud", "relay-model", "relay-kernels", "relay-proto"],
        outside: Outside::Without(&[]),
    },
    Arrows {
        folder: "tests",
        package: "relay-tests",
        ours: &[
            "relay",
            "relay-kernels",
            "relay-model",
            "relay-chassis",
            "relay-proto",
            "relay-edge",
            "relay-cloud",
            "relay-train",
        ],
        outside: Outside::Without(&[]),
    },
    Arrows {
        folder: "xtask",
        package: "xtask",
        ours: &[],
        outside: Outside::Without(&["candle", "tokenizers", "tokio", "tonic", "prost"]),
    },
];

/// The names of the packages that a manifest depends on: for the product, and for its tests only.
fn dependencies(manifest: &Table) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut product, mut tests) = (BTreeSet::new(), BTreeSet::new());
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flat_map(|targets| targets.values());
    for table in std::iter::once(manifest).chain(tables.filter_map(toml::Value::as_table)) {
        product.extend(named(table, "dependencies"));
        product.extend(named(table, "build-dependencies"));
        tests.extend(named(table, "dev-dependencies"));
    }
    (product, tests)
}

/// Package names in one table of dependencies, renamed ones under their real name.
fn named(table: &Table, section: &str) -> Vec<String> {
    let entries = table.get(section).and_then(toml::Value::as_table);
    let name = |(key, value): (&String, &toml::Value)| {
        value.get("package").and_then(toml::Value::as_str).unwrap_or(key).to_owned()
    };
    entries.into_iter().flatten().map(name).collect()
}

fn is_ours(package: &str) -> bool {
    ARROWS.iter().any(|row| row.package == package)
}

fn forbidden(row: &Arrows, manifest: &Table) -> Vec<String> {
    let (product, tests) = dependencies(manifest);
    let allows = |name: &String, in_tests: bool| {
        let name = name.as_str();
        if is_ours(name) {
            return row.ours.contains(&name);
        }
        match row.outside {
            Outside::Only(names) => in_tests || names.contains(&name),
            Outside::Without(prefixes) => !prefixes.iter().any(|prefix| name.starts_with(prefix)),
        }
    };
    let product = product.iter().filter(|name| !allows(name, false));
    let tests = tests.iter().filter(|name| !allows(name, true));
    product.chain(tests).map(|name| format!("{} may not use {name}", row.package)).collect()
}

fn manifest_of(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Folders of the members that the root's manifest names, `shared/*` spelled out.
fn member_folders() -> BTreeSet<String> {
    let manifest = manifest_of(".");
    let members = manifest["workspace"]["members"].as_array().expect("members is an array");
    let mut folders = BTreeSet::new();
    for member in members.iter().map(|member| member.as_str().expect("a member is a path")) {
        match member.strip_suffix("/*") {
            None => drop(folders.insert(member.to_owned())),
            Some(shelf) => folders.extend(folders_with_a_manifest(shelf)),
        }
    }
    folders
}

fn folders_with_a_manifest(shelf: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(shelf)).expect("the shelf can be read");
    let folders = entries.map(|entry| entry.expect("an entry can be read").path());
    let crates = folders.filter(|path| path.join("Cargo.toml").is_file());
    crates.filter_map(|path| Some(format!("{shelf}/{}", path.file_name()?.to_str()?))).collect()
}

#[test]
fn manifests_keep_to_the_arrows() {
    let findings: Vec<String> =
        ARROWS.iter().flat_map(|row| forbidden(row, &manifest_of(row.folder))).collect();
    crate::assert_none("arrows between crates", &findings);
}

#[test]
fn the_table_names_every_member() {
    let table: BTreeSet<String> = ARROWS.iter().map(|row| row.folder.to_owned()).collect();
    assert_eq!(table, member_folders());
    for row in &ARROWS {
        assert_eq!(manifest_of(row.folder)["package"]["name"].as_str(), Some(row.package));
    }
}

#[test]
fn a_forbidden_arrow_is_found() {
    let row = |package| ARROWS.iter().find(|row| row.package == package).expect("is in the table");
    let cases = [
        ("relay", "[dependencies]\nthiserror = '2'\nserde = '1'", 1),
        ("relay", "[dev-dependencies]\nproptest = '1'", 0),
        ("relay", "[dev-dependencies]\nrelay-model = '1'", 1),
        ("relay", "[target.'cfg(unix)'.dependencies]\nlibc = '1'", 1),
        ("relay-model", "[dependencies]\nrelay.workspace = true", 1),
        ("relay-model", "[dev-dependencies]\ntokio-stream = '1'", 1),
        ("relay-edge", "[dependencies]\nrelay-cloud = '1'", 1),
        ("relay-edge", "[dependencies]\nhidden = { package = 'relay-cloud', path = 'x' }", 1),
        ("relay-proto", "[build-dependencies]\ncandle-core = '1'", 1),
        ("xtask", "[dependencies]\nrelay = '1'", 1),
        ("relay-tests", "[dependencies]\nrelay-cloud = '1'\nrelay-edge = '1'", 0),
    ];
    for (package, manifest, expected) in cases {
        let manifest = manifest.parse().expect("the sample is TOML");
        assert_eq!(forbidden(row(package), &manifest).len(), expected, "{package}: {manifest}");
    }
    assert!(
        forbidden(row("relay-edge"), &"[dependencies]\ntonic = '1'".parse().expect("TOML"))
            .is_empty()
    );
}
