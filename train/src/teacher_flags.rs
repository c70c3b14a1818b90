//! Flags that name the large model: a folder on this machine, or a running cloud as the edge names its
//! own. Loads or connects, and asks nothing.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgGroup, Args};
use relay_chassis::tls::TlsFiles;
use relay_edge::EdgeSettings;
use relay_model::{LoadedModel, ModelIdentity, TINY_LLM};

use crate::evaluation::harness::load_model;
use crate::rollout::Rollout;

/// The longest that a cloud grants with the settings it comes with: training has time to wait.
const CALL_BUDGET_MS: u32 = 120_000;

/// Where the large model is.
#[derive(Args)]
#[command(group = ArgGroup::new("large model").args(["llm", "cloud"]).required(true))]
pub struct TeacherFlags {
    /// The large model, which stays as it is: a Hugging Face folder or a GGUF file.
    #[arg(long)]
    llm: Option<PathBuf>,
    /// A running relay-cloud that serves the large model, https://name:port, instead of --llm.
    #[arg(long, value_name = "URL", help_heading = "Cloud")]
    cloud: Option<String>,
    /// This device's certificate (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Cloud")]
    #[arg(requires_all = ["tls_key", "tls_authority"], conflicts_with = "llm")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Cloud", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// The authority that the cloud's certificate must come from (PEM).
    #[arg(long, value_name = "FILE", help_heading = "Cloud", requires = "tls_certificate")]
    tls_authority: Option<PathBuf>,
    /// Allow an http:// cloud, on loopback only.
    #[arg(long, help_heading = "Cloud", conflicts_with = "llm")]
    insecure: bool,
    /// What one call may take in milliseconds, all tries included.
    #[arg(long, value_name = "MS", help_heading = "Cloud", default_value_t = CALL_BUDGET_MS)]
    #[arg(conflicts_with = "llm")]
    call_budget_ms: u32,
}

impl TeacherFlags {
    /// The small model with this large one, and which that is.
    pub fn pair(
        &self,
        slm: LoadedModel,
        threads: usize,
    ) -> anyhow::Result<(Rollout, ModelIdentity)> {
        match (&self.cloud, &self.llm) {
            (Some(url), _) => Ok(Rollout::with_cloud(slm, &self.settings(url))?),
            (None, Some(llm)) => {
                let llm = load_model(llm, &TINY_LLM, Some(threads))?;
                let identity = llm.identity.clone();
                Ok((Rollout::new(slm, Some(llm))?, identity))
            }
            (None, None) => bail!("no large model is named: give --llm or --cloud"),
        }
    }

    fn settings(&self, url: &str) -> EdgeSettings {
        let files =
            (self.tls_certificate.clone(), self.tls_key.clone(), self.tls_authority.clone());
        let tls = match files {
            (Some(certificate), Some(key), Some(authority)) => {
                Some(TlsFiles { certificate, key, authority })
            }
            _ => None,
        };
        let clouds = vec![url.to_owned()];
        let mut settings =
            EdgeSettings { clouds, insecure: self.insecure, tls, ..EdgeSettings::default() };
        settings.uplink.call_budget_ms = self.call_budget_ms;
        settings
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        teacher: TeacherFlags,
    }

    fn parse(words: &str) -> Option<TeacherFlags> {
        let words = std::iter::once("grpo").chain(words.split_whitespace());
        Line::try_parse_from(words).ok().map(|line| line.teacher)
    }

    #[test]
    fn a_teacher_is_named_once_and_whole() {
        Line::command().debug_assert();
        for words in ["--llm llm", "--cloud https://c", "--cloud http://[::1]:1 --insecure"] {
            assert!(parse(words).is_some(), "{words}");
        }
        for words in [
            "",
            "--llm llm --cloud https://c",
            "--llm llm --insecure",
            "--llm llm --call-budget-ms 5",
            "--insecure",
            "--cloud https://c --tls-key k",
            "--cloud https://c --tls-certificate c --tls-key k",
            "--llm llm --tls-certificate c --tls-key k --tls-authority a",
        ] {
            assert!(parse(words).is_none(), "{words}");
        }
    }

    #[test]
    fn flags_are_the_edges_keys() {
        let files = "--tls-certificate c --tls-key k --tls-authority a";
        let flags = parse(&format!("--cloud https://c {files} --call-budget-ms 7")).unwrap();
        let found = flags.settings("https://c");
        let [certificate, key, authority] = ["c", "k", "a"].map(PathBuf::from);
        let mut expected = EdgeSettings {
            clouds: vec!["https://c".to_owned()],
            tls: Some(TlsFiles { certificate, key, authority }),
            ..EdgeSettings::default()
        };
        expected.uplink.call_budget_ms = 7;
        assert_eq!(found, expected);
        found.validate().unwrap();
        assert!(parse("--cloud http://c --insecure").unwrap().settings("http://c").insecure);
    }
}
