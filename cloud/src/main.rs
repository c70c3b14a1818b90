//! The program: flags, settings, chassis, serve, drain. Errors are one line that names the fix.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use relay::command;
use relay_chassis::health::{Health, HealthState};
use relay_chassis::pki::{self, IssueOptions, Usage};
use relay_chassis::shutdown::Shutdown;
use relay_chassis::{listen, settings, telemetry};
use relay_cloud::CloudSettings;
use relay_model::{
    CPU_HELP, DeviceChoice, LoadOptions, LoadProgress, ModelSource, OpenedModel, TINY_LLM,
};
use serde::Serialize;

const EXIT_FAULT: u8 = 1;
const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Start in two minutes:
  relay-cloud pki init --out pki
  relay-cloud pki issue cloud --out pki --server
  relay-cloud pki issue phone --out pki --client
  relay-cloud serve --model llm.gguf --listen 0.0.0.0:7433 \\
      --tls-certificate pki/cloud.pem --tls-key pki/cloud.key --tls-authority pki/ca.pem

On one machine, without certificates:
  relay-cloud serve --model llm.gguf --listen 127.0.0.1:7433 --insecure

Exit codes: 0 after a drain, 1 on a fault, 2 on wrong usage or settings.";

const SERVE_HELP: &str = "\
Settings come from, in rising order: defaults, the file of --config (TOML), the environment
(RELAY_CLOUD_KV_BYTES_MAX=8589934592), flags. `relay-cloud settings` prints every key with its
default; a key that does not exist is an error.

On standard output: `listening on ADDRESS` once the socket is bound and the model's headers are read,
then `ready` once the weights are loaded and have decoded a token. Logs go to standard error.

SIGTERM or Ctrl-C drains: no new connections, new calls are refused with `draining`, running calls
may end within drain_timeout_s, then the process exits with 0. A second signal ends it at once.";

/// Serves a large language model to edge devices that call it for a few tokens at a time.
#[derive(Debug, Parser)]
#[command(name = "relay-cloud", version, after_help = AFTER_HELP)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over gRPC.
    #[command(after_help = SERVE_HELP)]
    Serve(Box<ServeArguments>),
    /// Print every setting with its default, as a settings file.
    Settings,
    /// Make a small authority and certificates for mutual TLS.
    #[command(subcommand)]
    Pki(PkiCommand),
}

fn threads_help() -> String {
    format!("Threads that compute on cpu; all physical cores unless given. {CPU_HELP}")
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// Settings file, TOML.
    #[arg(long, value_name = "FILE", env = "RELAY_CLOUD_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// The settings that are flags too; each is named as in the file, with dashes.
#[derive(Debug, Args, Serialize)]
struct Flags {
    /// The model: a GGUF file, a Hugging Face folder, or `embedded`: the tiny pair's large one.
    /// [default: embedded]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// What it computes on: cpu, cuda, cuda:1 (a card's index) or metal.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    #[arg(long, value_name = "N", help = threads_help())]
    threads: Option<NonZero<usize>>,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The certificate shown to edges, PEM.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The authority that edges' certificates must come from, PEM.
    #[arg(long, value_name = "FILE")]
    tls_authority: Option<PathBuf>,
    /// No TLS and one tenant; refused unless the address is a loopback one.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    insecure: Option<bool>,
    /// Address of `/metrics`, `/livez` and `/readyz` over HTTP.
    #[arg(long, value_name = "ADDRESS")]
    probes_listen: Option<SocketAddr>,
    /// Most calls in a batch.
    #[arg(long, value_name = "CALLS")]
    calls_max: Option<u32>,
    /// Most bytes of KV, of all sessions together.
    #[arg(long, value_name = "BYTES")]
    kv_bytes_max: Option<u64>,
    /// Longest text, in tokens; the model's own context if that is shorter.
    #[arg(long, value_name = "TOKENS")]
    context_tokens_max: Option<u32>,
    /// How long running calls may take to end after SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS")]
    drain_timeout_s: Option<u64>,
    /// Which log lines are written, as `info` or `info,relay_cloud=debug`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How they look: `plain` or `json`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make an authority in a folder. Its key can issue certificates: keep it off the cloud.
    Init {
        /// The folder; made if it is not there.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Issue a certificate and key from the authority in a folder.
    Issue(IssueArguments),
}

#[derive(Debug, Args)]
struct IssueArguments {
    /// Its name: the file's, and in a client's certificate the tenant's.
    name: String,
    /// The folder that `pki init` made.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    usage: UsageArguments,
    /// A DNS name the server is reached by, beside `localhost`; may be repeated.
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// An address the server is reached by, beside 127.0.0.1 and `::1`; may be repeated.
    #[arg(long = "ip", value_name = "ADDRESS")]
    ip_addresses: Vec<IpAddr>,
    /// How long it is valid: 1 to 3650 days.
    #[arg(
        long,
        value_name = "DAYS",
        default_value_t = 365,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(pki::AUTHORITY_DAYS))
    )]
    days: u32,
    /// Replace a certificate of the same name.
    #[arg(long)]
    replace: bool,
}

#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
struct UsageArguments {
    /// For a cloud.
    #[arg(long)]
    server: bool,
    /// For an edge: one tenant.
    #[arg(long)]
    client: bool,
}

fn main() -> ExitCode {
    let outcome = match Program::parse().command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Settings => print_settings(),
        Command::Pki(PkiCommand::Init { out }) => init(&out),
        Command::Pki(PkiCommand::Issue(arguments)) => issue(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            // If standard error is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "error: {message}");
            ExitCode::from(code)
        }
    }
}

/// What the user reads, and the exit code.
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn fault(error: impl std::fmt::Display) -> Self {
        Self { code: EXIT_FAULT, message: error.to_string() }
    }

    fn usage(error: impl std::fmt::Display) -> Self {
        Self { code: EXIT_USAGE, message: error.to_string() }
    }
}

fn serve(arguments: &ServeArguments) -> Result<(), Failure> {
    let file = arguments.config.as_deref();
    let settings: CloudSettings =
        settings::load(file, "RELAY_CLOUD_", &arguments.flags).map_err(Failure::usage)?;
    settings.validate().map_err(Failure::usage)?;
    telemetry::init_tracing(&settings.log, settings.log_format).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::fault)?;
    let outcome = runtime.block_on(listen_and_serve(settings));
    // What still runs (a load, a hung step) must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn listen_and_serve(settings: CloudSettings) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals().map_err(Failure::fault)?;
    let listener = listen::bind(settings.listen, "listen").await.map_err(Failure::fault)?;
    let address = listener.local_addr().map_err(Failure::fault)?;
    let options = load_options(&settings);
    let model = ModelSource::named(&settings.model, &TINY_LLM);
    let model = open_model(model).await?;
    say(format_args!("listening on {address}"));
    let health = Health::new();
    let ready = tokio::spawn(say_ready(health.clone()));
    tracing::info!(
        model = %settings.model.display(),
        device = %settings.device,
        calls_max = settings.calls_max,
        kv_bytes_max = settings.kv_bytes_max,
        insecure = settings.insecure,
        "starting"
    );
    tracing::debug!(?settings, "every setting");
    let load = move || model.load(&options);
    let served = relay_cloud::serve(settings, load, listener, health, shutdown).await;
    ready.abort();
    served.map_err(|error| match error {
        error @ (relay_cloud::ServeError::Settings(_) | relay_cloud::ServeError::Tls(_)) => {
            Failure::usage(error)
        }
        error => Failure::fault(error),
    })
}

/// A model whose headers cannot be used is refused before anybody is told of an address; its numbers
/// are looked at while it loads.
async fn open_model(model: ModelSource) -> Result<OpenedModel, Failure> {
    let opened = tokio::task::spawn_blocking(move || OpenedModel::open(model));
    opened.await.map_err(Failure::fault)?.map_err(Failure::fault)
}

fn load_options(settings: &CloudSettings) -> LoadOptions {
    LoadOptions {
        plain_texts: command::TAGS.map(str::to_owned).to_vec(),
        device: settings.device,
        device_precision: settings.device_precision,
        kv_precision: settings.kv_precision,
        threads: settings.threads.map(NonZero::get),
        progress: Some(tell_progress),
    }
}

/// Of a load that takes long.
fn tell_progress(LoadProgress { bytes, all_bytes }: LoadProgress) {
    tracing::info!(bytes, all_bytes, "loading the model");
}

async fn say_ready(health: Health) {
    if health.watch().wait_for(|state| *state == HealthState::Ready).await.is_ok() {
        say(format_args!("ready"));
    }
}

/// A line on standard output, for whoever started us; if nobody listens, nobody misses it.
fn say(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn print_settings() -> Result<(), Failure> {
    let text = toml::to_string(&CloudSettings::default()).map_err(Failure::fault)?;
    say(format_args!("{}", text.trim_end()));
    Ok(())
}

fn init(out: &std::path::Path) -> Result<(), Failure> {
    let authority = pki::init(out).map_err(Failure::fault)?;
    say(format_args!("authority: {}", authority.display()));
    Ok(())
}

fn issue(arguments: &IssueArguments) -> Result<(), Failure> {
    let usage = if arguments.usage.server { Usage::Server } else { Usage::Client };
    let options = IssueOptions {
        dns_names: arguments.dns_names.clone(),
        ip_addresses: arguments.ip_addresses.clone(),
        replace: arguments.replace,
        ..IssueOptions::new(usage, arguments.days)
    };
    let files = pki::issue(&arguments.out, &arguments.name, &options).map_err(Failure::fault)?;
    say(format_args!("certificate: {}", files.certificate.display()));
    say(format_args!("key: {}", files.key.display()));
    say(format_args!("authority: {}", files.authority.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_are_sound_and_named_as_settings() {
        Program::command().debug_assert();
        assert!(threads_help().contains("RELAY_CPU"));
        let arguments =
            "relay-cloud serve --insecure --model m --device metal --threads 2 --calls-max 3"
                .split(' ');
        let Command::Serve(serve) = Program::parse_from(arguments).command else {
            panic!("serve was asked for");
        };
        let loaded: CloudSettings =
            settings::load_from(None, "RELAY_CLOUD_", [], &serve.flags).unwrap();
        let expected = CloudSettings {
            insecure: true,
            model: "m".into(),
            device: DeviceChoice::Metal,
            threads: NonZero::new(2),
            calls_max: 3,
            ..CloudSettings::default()
        };
        assert_eq!(loaded, expected);
    }
}
