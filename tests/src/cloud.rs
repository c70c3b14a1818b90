//! A cloud in this process: the whole service on a loopback port, with a scripted model.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use relay_chassis::health::{Health, HealthState};
use relay_chassis::shutdown::{Shutdown, Trigger};
use relay_cloud::CloudSettings;
use relay_model::scripted::ScriptedModel;
use relay_model::{LoadedModel, ModelIdentity};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::scripts::{CONTEXT_TOKENS, VOCABULARY_TOKENS, llm_rule, tokenizer};

/// Longest a test waits for a cloud to be ready or gone.
pub const WAIT: Duration = Duration::from_secs(20);

/// A running service.
pub struct Cloud {
    address: SocketAddr,
    end: Trigger,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Cloud {
    /// Starts the service with a model that follows [`llm_rule`] of `seed`.
    pub async fn start(seed: u64, edit: impl FnOnce(&mut CloudSettings)) -> anyhow::Result<Self> {
        Self::serve(scripted(llm_rule(seed), Duration::ZERO), edit).await
    }

    /// Starts the service with this model and waits until it is ready.
    pub async fn serve(
        model: LoadedModel,
        edit: impl FnOnce(&mut CloudSettings),
    ) -> anyhow::Result<Self> {
        let mut settings = CloudSettings { insecure: true, ..CloudSettings::default() };
        edit(&mut settings);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let health = Health::new();
        let mut state = health.watch();
        let (shutdown, end) = Shutdown::manual();
        let serving = tokio::spawn(async move {
            Ok(relay_cloud::serve(settings, move || Ok(model), listener, health, shutdown).await?)
        });
        let ready = state.wait_for(|state| *state == HealthState::Ready);
        tokio::time::timeout(WAIT, ready).await.context("the cloud is not ready in time")??;
        Ok(Self { address, end, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same for an edge that speaks plain HTTP/2.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Begins the drain and does not wait.
    pub fn begin_drain(&self) {
        self.end.begin();
    }

    /// Drains and waits for the end.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.end.begin();
        tokio::time::timeout(WAIT, self.serving).await.context("the drain does not end")??
    }
}

/// A loaded model that follows `rule`, each step taking at least `step_delay`.
pub fn scripted(
    rule: impl Fn(&[u32]) -> u32 + Send + 'static,
    step_delay: Duration,
) -> LoadedModel {
    let model = ScriptedModel::new(VOCABULARY_TOKENS, CONTEXT_TOKENS, rule);
    LoadedModel {
        model: Box::new(model.with_step_delay(step_delay)),
        tokenizer: Arc::new(tokenizer()),
        chat_template: None,
        identity: ModelIdentity { name: "scripted".to_owned(), hash: [1; 8] },
    }
}
