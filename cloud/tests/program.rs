//! The program as a user meets it: exit codes, and errors that name the fix in one line.

#![allow(clippy::unwrap_used, reason = "a helper's panic is a test's failure")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn relay_cloud(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay-cloud"));
    command.args(arguments).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_usage_exits_with_2_and_a_fault_with_1_and_both_name_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("cloud.toml");
    std::fs::write(&config, "insecure = true\ncals_max = 3\n").unwrap();
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let (config, empty) = (config.to_str().unwrap(), empty.to_str().unwrap());
    let on_loopback = ["serve", "--insecure", "--listen", "127.0.0.1:0", "--model"];
    let with_model = |model| [&on_loopback[..], &[model]].concat();
    let cases: [(Vec<&str>, i32, &str); 7] = [
        (vec!["serve"], 2, "`tls_certificate`: it is not set"),
        (vec!["serve", "--insecure", "--listen", "0.0.0.0:0"], 2, "`insecure`: 0.0.0.0:0 can be"),
        (vec!["serve", "--config", config], 2, "did you mean `calls_max`?"),
        (vec!["serve", "--insecure", "--calls-max", "0"], 2, "`calls_max`: it is 0"),
        (
            vec!["serve", "--insecure", "--listen", &taken_address, "--model", "m"],
            1,
            "another process has this port",
        ),
        (with_model("/nowhere/llm.gguf"), 1, "/nowhere/llm.gguf: cannot open"),
        (with_model(empty), 1, "empty.gguf"),
    ];
    for (arguments, code, part) in cases {
        let output = relay_cloud(&arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
        assert_eq!(text(&output.stdout), "", "{arguments:?} says nothing of an address");
        assert!(!errors.contains("backtrace") && !errors.contains("panicked"), "{errors}");
    }
}

#[test]
fn every_setting_is_printed_as_a_file_that_loads() {
    let printed = text(&relay_cloud(&["settings"]).stdout);
    let read: relay_cloud::CloudSettings = toml::from_str(&printed).unwrap();
    assert_eq!(read, relay_cloud::CloudSettings::default());
}

#[test]
fn pki_makes_what_serve_takes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pki");
    let out = out.to_str().unwrap();
    let done = |arguments: &[&str]| {
        let output = relay_cloud(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    };
    done(&["pki", "init", "--out", out]);
    done(&["pki", "issue", "cloud", "--out", out, "--server", "--dns", "cloud.example"]);
    done(&["pki", "issue", "phone", "--out", out, "--client"]);
    for file in ["ca.pem", "ca.key", "cloud.pem", "cloud.key", "phone.pem", "phone.key"] {
        assert!(Path::new(out).join(file).exists(), "{file}");
    }
    let again = relay_cloud(&["pki", "init", "--out", out]);
    assert_eq!(again.status.code(), Some(1), "an authority is never overwritten");
    let neither = relay_cloud(&["pki", "issue", "x", "--out", out]);
    assert_eq!(neither.status.code(), Some(2), "server or client must be said");
}
