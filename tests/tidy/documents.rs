//! Decision records have one number each, links lead somewhere, files that documents name are there,
//! and nothing in the tree names the machine it was written on or a package registry's host.

use std::collections::BTreeMap;
use std::path::Path;

use crate::tree::{TextFile, has_extension, paths, root, text_files};

/// Written by cargo, hosts included.
const LOCK_FILE: &str = "Cargo.lock";
/// Split, so that this file does not break its own rule.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("C:", "\\Users"),
];
const REGISTRY_HOSTS: [&str; 8] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("debian", ".org"),
    concat!("docker", ".io"),
    concat!("ghcr", ".io"),
];

/// Documents that describe the tree as it is; the style names files that must not be there.
const MAPS: [&str; 3] = ["README.md", "docs/ARCHITECTURE.md", "docs/PROTOCOL.md"];
const FILE_KINDS: [&str; 4] = ["rs", "proto", "toml", "md"];

fn record_numbers(paths: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let records = paths.iter().filter_map(|path| path.strip_prefix("docs/adr/"));
    for name in records.filter(|name| *name != "README.md") {
        match name.split_once('-') {
            Some((number, _))
                if number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) =>
            {
                if let Some(other) = seen.insert(number, name) {
                    findings.push(format!("{name} and {other} share a number"));
                }
            }
            _ => findings.push(format!("{name}: name it NNNN-what-was-decided.md")),
        }
    }
    findings
}

/// Targets of the Markdown links outside of code.
fn links(markdown: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
            let ends = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            targets.extend(ends.map(|(target, _)| target.trim().to_owned()));
        }
    }
    targets
}

fn broken_links(file: &TextFile, leads_somewhere: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    links(&file.text)
        .into_iter()
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .filter_map(|target| {
            let path = target.split('#').next().unwrap_or_default().to_owned();
            (!path.is_empty() && !leads_somewhere(&folder.join(path))).then_some(target)
        })
        .map(|target| format!("{}: {target} leads nowhere", file.path))
        .collect()
}

/// File names that a document sets in code, `a/{b,c}.rs` spelled out.
fn files_named(markdown: &str) -> Vec<String> {
    let mut named = Vec::new();
    for code in markdown.split('`').skip(1).step_by(2) {
        let is_file = FILE_KINDS.iter().any(|kind| has_extension(code, kind));
        match (is_file, code.split_once('{'), code.split_once('}')) {
            (false, ..) => {}
            (true, Some((before, _)), Some((inside, after))) => {
                let inside = inside.rsplit('{').next().unwrap_or_default();
                named.extend(inside.split(',').map(|name| format!("{before}{name}{after}")));
            }
            (true, ..) => named.push(code.to_owned()),
        }
    }
    named
}

/// Files that a document names and the tree does not have; the end of a path is enough.
fn lost_files(file: &TextFile, paths: &[String]) -> Vec<String> {
    let is_there = |name: &String| {
        paths.iter().any(|path| path == name || path.ends_with(&format!("/{name}")))
    };
    let lost = files_named(&file.text).into_iter().filter(|name| !is_there(name));
    lost.map(|name| format!("{}: there is no {name}", file.path)).collect()
}

/// Modules that a crate's root declares and its table of modules leaves out, where it has one.
fn modules_left_out(file: &TextFile) -> Vec<String> {
    let head: Vec<&str> = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
    if !head.iter().any(|line| line.starts_with("//! |")) {
        return Vec::new();
    }
    let head = head.join(" ");
    let spans = head.split('`').skip(1).step_by(2);
    let named: Vec<&str> = spans.flat_map(|code| code.split(['.', '/'])).collect();
    let modules = file.text.lines().filter_map(|line| {
        let name = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?;
        name.strip_suffix(';')
    });
    let left_out = modules.filter(|module| !named.contains(module));
    left_out.map(|module| format!("{}: {module} is not in the table", file.path)).collect()
}

/// Places where `text` stands and is not the tail of a longer word or path.
fn stands_alone(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|character| character.is_alphanumeric() || "_-.*~}$".contains(character))
    })
}

fn machine_traces(file: &TextFile) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let path = MACHINE_PATHS.iter().find(|path| stands_alone(line, path));
        let host = REGISTRY_HOSTS.iter().find(|host| line.contains(**host));
        if let Some(found) = path.or(host) {
            findings.push(format!("{}:{}: {found}", file.path, index + 1));
        }
    }
    findings
}

fn sample(path: &str, text: &str) -> TextFile {
    TextFile { path: path.into(), text: text.into() }
}

#[test]
fn decision_records_have_one_number_each() {
    crate::assert_none("decision records", &record_numbers(&paths()));
}

#[test]
fn a_shared_number_is_found() {
    let bad = ["docs/adr/0001-a.md", "docs/adr/0001-b.md", "docs/adr/notes.md"];
    assert_eq!(record_numbers(&bad.map(String::from)).len(), 2);
    let good = ["docs/adr/0001-a.md", "docs/adr/0002-b.md", "docs/STYLE.md"];
    assert!(record_numbers(&good.map(String::from)).is_empty());
}

#[test]
fn relative_links_lead_somewhere() {
    let documents = text_files().into_iter().filter(|file| has_extension(&file.path, "md"));
    let findings: Vec<String> = documents
        .flat_map(|file| {
            broken_links(&file, |path| root().join(path).try_exists().unwrap_or(false))
        })
        .collect();
    crate::assert_none("broken links", &findings);
}

#[test]
fn a_link_to_nothing_is_found() {
    let text = "[a](gone.md#x) [b](here.md) [c](https://x) [d](#e) `[f](gone.md)`\n```\n[g](gone.md)\n```\n";
    let found = broken_links(&sample("docs/a.md", text), |path| path == Path::new("docs/here.md"));
    assert_eq!(found, ["docs/a.md: gone.md#x leads nowhere"]);
}

#[test]
fn files_that_documents_name_are_there() {
    let paths = paths();
    let is_map = |path: &str| MAPS.contains(&path) || path.starts_with("docs/adr/");
    let documents = text_files().into_iter().filter(|file| is_map(&file.path));
    let findings: Vec<String> = documents.flat_map(|file| lost_files(&file, &paths)).collect();
    crate::assert_none("documents that name what is gone", &findings);
}

#[test]
fn a_file_that_is_gone_is_found() {
    let paths = ["edge/src/a.rs", "edge/src/b.rs"].map(String::from);
    let text = "`edge/src/{a,c}.rs` `b.rs` `src/a.rs` `rc/a.rs` a.toml `edge/src`";
    let found = lost_files(&sample("docs/a.md", text), &paths);
    assert_eq!(found, ["docs/a.md: there is no edge/src/c.rs", "docs/a.md: there is no rc/a.rs"]);
}

#[test]
fn tables_of_modules_are_whole() {
    let is_root = |path: &str| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let roots = text_files().into_iter().filter(|file| is_root(&file.path));
    let findings: Vec<String> = roots.flat_map(|file| modules_left_out(&file)).collect();
    crate::assert_none("modules that a table leaves out", &findings);
}

#[test]
fn a_module_that_is_left_out_is_found() {
    let code = "\nmod one;\npub mod two;\nmod three;\n#[cfg(x)]\npub mod four;\n";
    let table = "//! Says `three`.\n//!\n//! | a | `one.rs`, `two/`\n//! | b | `five`\n";
    let found = modules_left_out(&sample("a/src/lib.rs", &format!("{table}{code}")));
    assert_eq!(found, ["a/src/lib.rs: four is not in the table"]);
    assert!(modules_left_out(&sample("a/src/lib.rs", &format!("//! `one`\n{code}"))).is_empty());
}

#[test]
fn no_trace_of_a_machine() {
    let files = text_files().into_iter().filter(|file| file.path != LOCK_FILE);
    let findings: Vec<String> = files.flat_map(|file| machine_traces(&file)).collect();
    crate::assert_none("paths of one machine, or hosts of a registry", &findings);
}

#[test]
fn a_trace_of_a_machine_is_found() {
    for path in MACHINE_PATHS {
        assert_eq!(
            machine_traces(&sample("a.md", &format!("see \"{path}me\""))).len(),
            1,
            "{path}"
        );
    }
    for host in REGISTRY_HOSTS {
        assert_eq!(
            machine_traces(&sample("a.md", &format!("https://{host}/x"))).len(),
            1,
            "{host}"
        );
    }
    assert!(machine_traces(&sample("a.md", concat!("target/frame", "work", "/x"))).is_empty());
}
