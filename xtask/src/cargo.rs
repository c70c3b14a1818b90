//! How cargo is called from inside a program that cargo itself started.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::folders;

/// Set by `cargo run` for this program; passed on they would make build scripts run again.
const OURS_ALONE: [&str; 5] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
];

/// The cargo that started this program, in the workspace's root.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(folders::workspace()).stdin(Stdio::null());
    let of_package = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("CARGO_PKG_"));
    for name in of_package.chain(OURS_ALONE.map(Into::into)) {
        command.env_remove(name);
    }
    command
}

/// Is this subcommand installed?
pub(crate) fn has(subcommand: &str) -> bool {
    let mut asked = command(&[subcommand, "--version"]);
    asked.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Builds these packages in release mode and returns where their programs lie, in that order.
pub(crate) fn build_programs(packages: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut build =
        command(&["build", "--release", "--locked", "--message-format=json-render-diagnostics"]);
    for package in packages {
        build.args(["--package", package]);
    }
    let output = build.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the build failed; its errors stand above");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let programs = packages.iter().map(|package| program(&messages, package));
    programs.collect()
}

/// Where cargo says that it put a program of this name.
fn program(messages: &str, name: &str) -> anyhow::Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no program named {name}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::program;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = concat!(
            "{\"target\":{\"name\":\"relay-edge\"},\"executable\":null}\n",
            "not json\n",
            "{\"target\":{\"name\":\"relay-edge\"},\"executable\":\"/t/relay-edge\"}\n",
        );
        assert_eq!(program(messages, "relay-edge").unwrap(), PathBuf::from("/t/relay-edge"));
        assert!(program(messages, "relay-cloud").is_err());
    }
}
