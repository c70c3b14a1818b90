//! A service in this process on a free port, with a model that waits for the test's leave before
//! each step. Owns no rule.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use relay::call::{CallEvent, CallRequest, Description, FinishReason, Sampling};
use relay::ids::{Attempt, SessionId};
use relay::prefix::prefix_hash;
use relay::refusal::Refusal;
use relay_chassis::health::{Health, HealthState};
use relay_chassis::pki::{self, IssueOptions, Usage};
use relay_chassis::shutdown::{Shutdown, Trigger};
use relay_chassis::tls::{TlsFiles, client_config};
use relay_cloud::{CloudSettings, ServeError, serve};
use relay_model::scripted::{ScriptedModel, byte_tokenizer, hash_rule};
use relay_model::{
    KvCache, LanguageModel, LoadedModel, Logits, ModelError, ModelIdentity, ModelShape, Row,
};
use relay_proto::v1;
use relay_proto::v1::relay_client::RelayClient;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Leaves for forward passes; while it is held, each pass takes one. Dropped, all may pass.
pub struct Gate {
    leave: SyncSender<()>,
    steps: watch::Receiver<usize>,
}

impl Gate {
    /// Lets so many steps pass.
    pub fn pass(&self, steps: usize) {
        for _ in 0..steps {
            self.leave.send(()).unwrap();
        }
    }

    /// How many steps the model has done, the one that warms up included.
    pub fn steps(&self) -> usize {
        *self.steps.borrow()
    }

    /// Waits until the model has done so many steps.
    pub async fn until(&self, steps: usize) {
        self.steps.clone().wait_for(|done| *done >= steps).await.unwrap();
    }
}

struct GatedModel {
    inner: ScriptedModel,
    gate: Option<Receiver<()>>,
    steps: watch::Sender<usize>,
}

impl LanguageModel for GatedModel {
    fn shape(&self) -> ModelShape {
        self.inner.shape()
    }

    fn new_cache(&self) -> KvCache {
        self.inner.new_cache()
    }

    fn forward(&mut self, rows: &mut [Row<'_>]) -> Result<Vec<Logits>, ModelError> {
        if self.gate.as_ref().is_some_and(|gate| gate.recv().is_err()) {
            self.gate = None;
        }
        let logits = self.inner.forward(rows);
        self.steps.send_modify(|steps| *steps += 1);
        logits
    }
}

pub type Served = JoinHandle<Result<(), ServeError>>;

/// A running service.
pub struct Cloud {
    pub address: SocketAddr,
    pub health: Health,
    pub trigger: Trigger,
    pub served: Served,
}

pub fn settings() -> CloudSettings {
    CloudSettings {
        insecure: true,
        context_tokens_max: Some(4096),
        call_tokens_max: 64,
        drain_timeout_s: 10,
        ..CloudSettings::default()
    }
}

fn loaded(gate: Option<Receiver<()>>, steps: watch::Sender<usize>) -> LoadedModel {
    let inner = ScriptedModel::new(257, 8192, hash_rule(7, 0..256));
    LoadedModel {
        model: Box::new(GatedModel { inner, gate, steps }),
        tokenizer: Arc::new(byte_tokenizer(&[])),
        chat_template: None,
        identity: ModelIdentity { name: "scripted".to_owned(), hash: [1; 8] },
    }
}

impl Cloud {
    /// A service that is ready.
    pub async fn start(settings: CloudSettings) -> Self {
        Self::ready(settings, None, watch::Sender::new(0)).await
    }

    /// A service that is ready and then takes a leave for each step.
    pub async fn gated(settings: CloudSettings) -> (Self, Gate) {
        let (leave, gate) = sync_channel(1024);
        // The decode that warms up passes, too.
        leave.send(()).unwrap();
        let (done, steps) = watch::channel(0);
        (Self::ready(settings, Some(gate), done).await, Gate { leave, steps })
    }

    async fn ready(
        settings: CloudSettings,
        gate: Option<Receiver<()>>,
        steps: watch::Sender<usize>,
    ) -> Self {
        let cloud = Self::load(settings, move || Ok(loaded(gate, steps))).await;
        cloud.until(HealthState::Ready).await;
        cloud
    }

    /// A service that loads.
    pub async fn load(
        settings: CloudSettings,
        load: impl FnOnce() -> Result<LoadedModel, ModelError> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, (shutdown, trigger)) = (Health::new(), Shutdown::manual());
        let served = serve(settings, load, listener, health.clone(), shutdown);
        Self { address, health, trigger, served: tokio::spawn(served) }
    }

    pub async fn until(&self, state: HealthState) {
        let mut watch = self.health.watch();
        let reached = watch.wait_for(|now| *now >= state);
        tokio::time::timeout(PATIENCE, reached).await.expect("in time").unwrap();
    }

    /// Begins the drain and waits for the end.
    pub async fn stop(self) {
        self.trigger.begin();
        self.ended().await;
    }

    /// Waits for the end.
    pub async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.served).await.expect("in time").unwrap().unwrap();
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::of(self.channel().await).await
    }

    /// A client that shows this certificate; an error if the connection is refused.
    pub async fn tls_client(&self, files: &TlsFiles) -> Result<Client, String> {
        self.connect(client_config(files).unwrap()).await
    }

    /// A client with this configuration of TLS; an error if the connection is refused.
    pub async fn connect(&self, config: impl Into<Arc<ClientConfig>>) -> Result<Client, String> {
        let connector = TlsConnector::from(config.into());
        let address = self.address;
        let endpoint = Endpoint::from_static("http://localhost");
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
                let stream = connector.connect(name, stream).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        let channel = endpoint.connect_with_connector(connect).await;
        let mut relay = RelayClient::new(channel.map_err(|error| format!("{error:?}"))?);
        let described = relay.describe(v1::DescribeRequest {}).await;
        let described = described.map_err(|status| format!("{status:?}"))?;
        Ok(Client { relay, described: described.into_inner().try_into().unwrap() })
    }
}

/// What an edge holds of a cloud.
#[derive(Clone, Debug)]
pub struct Client {
    pub relay: RelayClient<Channel>,
    pub described: Description,
}

/// What a call's stream held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    pub cached_tokens: Option<u32>,
    pub ids: Vec<u32>,
    pub finished: Option<FinishReason>,
    pub refused: Option<Refusal>,
}

impl Told {
    pub fn hear(&mut self, event: v1::CallEvent) {
        match CallEvent::try_from(event).unwrap() {
            CallEvent::Accepted(accepted) => self.cached_tokens = Some(accepted.cached_tokens),
            CallEvent::Token(token) => self.ids.push(token.id),
            CallEvent::Finished(finished) => self.finished = Some(finished.reason),
            CallEvent::Refused(refusal) => self.refused = Some(refusal),
        }
    }
}

impl Client {
    pub async fn of(channel: Channel) -> Self {
        let mut relay = RelayClient::new(channel);
        let described = relay.describe(v1::DescribeRequest {}).await.unwrap().into_inner();
        Self { relay, described: described.try_into().unwrap() }
    }

    pub fn request(&self, session: u8, attempt: u64, text: &[u32], n: u32) -> CallRequest {
        CallRequest {
            session: SessionId::new([session; 16]),
            attempt: Attempt::new(attempt),
            fingerprint: self.described.fingerprint,
            model: self.described.model.clone(),
            base_tokens: 0,
            base_hash: prefix_hash(&[]),
            delta: text.to_vec(),
            max_tokens: n,
            sampling: Sampling::GREEDY,
            seed: 3,
            draft: Vec::new(),
            budget_ms: 60_000,
        }
    }

    pub async fn open(
        &mut self,
        request: CallRequest,
    ) -> Result<tonic::Streaming<v1::CallEvent>, tonic::Status> {
        let opened = self.relay.call(v1::CallRequest::from(request)).await?;
        Ok(opened.into_inner())
    }

    /// Runs a call to its end.
    pub async fn run(&mut self, request: CallRequest) -> Result<Told, tonic::Status> {
        tokio::time::timeout(PATIENCE, self.run_on(request)).await.expect("in time")
    }

    async fn run_on(&mut self, request: CallRequest) -> Result<Told, tonic::Status> {
        let mut stream = self.open(request).await?;
        let mut told = Told::default();
        while let Some(event) = stream.message().await? {
            told.hear(event);
        }
        Ok(told)
    }
}

/// Certificates in a folder that lasts as long as this.
pub struct Pki {
    pub folder: tempfile::TempDir,
}

impl Pki {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        pki::init(folder.path()).unwrap();
        let pki = Self { folder };
        pki.issue("cloud", Usage::Server);
        pki
    }

    pub fn issue(&self, name: &str, usage: Usage) -> TlsFiles {
        pki::issue(self.folder.path(), name, &IssueOptions::new(usage, 1)).unwrap()
    }

    /// Trusts this authority; says nothing of a client's certificate yet.
    pub fn trusting(&self) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let authority = CertificateDer::from_pem_file(self.folder.path().join("ca.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority).unwrap();
        let builder = ClientConfig::builder_with_provider(provider);
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots)
    }

    /// Shows a certificate, whatever its dates.
    pub fn showing(&self, files: &TlsFiles) -> ClientConfig {
        let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        self.trusting().with_client_auth_cert(chain, key).unwrap()
    }

    pub fn settings(&self) -> CloudSettings {
        let file = |name: &str| -> Option<PathBuf> { Some(self.folder.path().join(name)) };
        CloudSettings {
            insecure: false,
            tls_certificate: file("cloud.pem"),
            tls_key: file("cloud.key"),
            tls_authority: file("ca.pem"),
            ..settings()
        }
    }
}
