//! One cloud: its address, its connection, its breaker. Every connection resolves the name anew,
//! and is described before anything else is sent over it. It decides no retry.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use relay::call::Description;
use relay_proto::size::frame_bytes;
use relay_proto::v1::DescribeRequest;
use relay_proto::v1::relay_client::RelayClient;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::breaker::Breaker;
use crate::config::{BreakerSettings, ConfigError, Target, UplinkSettings};
use crate::metrics::Metrics;
use crate::routing::Standing;

mod limits {
    /// Largest message a cloud may send: a description or one event.
    pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
    /// Addresses of one name that are tried.
    pub(super) const ADDRESSES_MAX: usize = 8;
    /// Doublings of the back-off.
    pub(super) const DOUBLINGS_MAX: u32 = 16;
}

/// What went over the wire for one answer.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) bytes_up: AtomicU64,
    pub(crate) bytes_down: AtomicU64,
    pub(crate) calls: AtomicU32,
    pub(crate) describes: AtomicU32,
}

impl Traffic {
    pub(crate) fn sent(&self, message: &impl prost::Message) {
        self.bytes_up.fetch_add(framed_bytes(message), Ordering::Relaxed);
    }

    pub(crate) fn received(&self, message: &impl prost::Message) {
        self.bytes_down.fetch_add(framed_bytes(message), Ordering::Relaxed);
    }
}

fn framed_bytes(message: &impl prost::Message) -> u64 {
    u64::try_from(frame_bytes(message)).unwrap_or(u64::MAX)
}

/// Why no connection came about. Logged, and never a reason to lose an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the name {0} does not resolve: {1}")]
    Resolve(String, io::Error),
    #[error("nothing answers: {0}; check the address, and that the cloud runs")]
    Tcp(io::Error),
    #[error("TLS: {0}; check both sides' certificates")]
    Tls(io::Error),
    #[error("HTTP/2: {0}")]
    Http2(hyper::Error),
    #[error("Describe failed: {}; is it a relay cloud, and does it know our certificate?", root(.0))]
    Describe(Box<Status>),
    #[error("Describe answered nonsense: {0}; is it a relay cloud?")]
    Malformed(String),
    #[error("no connection within {0} ms")]
    Deadline(u32),
}

/// What is at the bottom of a status: the fault of a transport, or the other side's own words.
pub(crate) fn root(status: &Status) -> String {
    let mut deepest: &dyn std::error::Error = status;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if std::error::Error::source(status).is_some() {
        return deepest.to_string();
    }
    format!("{:?}: {}", status.code(), status.message())
}

/// One cloud of the list.
#[derive(Debug)]
pub(crate) struct Endpoint {
    index: usize,
    target: Target,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    settings: UplinkSettings,
    metrics: Metrics,
    state: Mutex<EndpointState>,
}

#[derive(Debug)]
struct EndpointState {
    connection: Option<Arc<Connection>>,
    breaker: Breaker,
    failed_connects: u32,
    /// Not before this moment, after a failed connection.
    next_try_at: Instant,
    /// Spreads the tries of many edges; stepped at each use.
    jitter: u64,
    last_fault: Option<String>,
}

/// What an endpoint is made of.
pub(crate) struct EndpointParts<'a> {
    pub(crate) index: usize,
    pub(crate) target: Target,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) settings: &'a UplinkSettings,
    pub(crate) breaker: &'a BreakerSettings,
    pub(crate) metrics: Metrics,
    pub(crate) jitter: u64,
}

impl Endpoint {
    pub(crate) fn new(parts: EndpointParts<'_>) -> Result<Self, ConfigError> {
        let name = ServerName::try_from(parts.target.host.clone()).map_err(|_| ConfigError {
            key: "clouds",
            wrong: format!("`{}` is no name that a certificate can have", parts.target.host),
            fix: "write the address as https://name:port",
        })?;
        let state = EndpointState {
            connection: None,
            breaker: Breaker::new(parts.breaker.limits()),
            failed_connects: 0,
            next_try_at: Instant::now(),
            jitter: parts.jitter,
            last_fault: None,
        };
        Ok(Self {
            index: parts.index,
            tls: parts.tls.filter(|_| parts.target.is_tls).map(|config| (config, name)),
            target: parts.target,
            settings: parts.settings.clone(),
            metrics: parts.metrics,
            state: Mutex::new(state),
        })
    }

    /// Logs a fault of this cloud: aloud if all was well before, quietly while it lasts.
    pub(crate) fn tell(&self, what: &str, reason: &dyn std::fmt::Display) {
        let cloud = self.target.origin.to_string();
        if self.standing(Instant::now()).failures == 0 {
            tracing::warn!(cloud, %reason, "{what}");
        } else {
            tracing::debug!(cloud, %reason, "{what}");
        }
        self.state().last_fault = Some(format!("{cloud}: {what}: {reason}"));
    }

    /// What was told last.
    pub(crate) fn last_fault(&self) -> Option<String> {
        self.state().last_fault.clone()
    }

    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let state = self.state();
        let is_connected = state.connection.as_ref().is_some_and(|open| !open.is_closed());
        let back_off = state.next_try_at.saturating_duration_since(now);
        Standing {
            admits: state.breaker.admits(now),
            failures: state.breaker.failures(),
            wait: if is_connected { Duration::ZERO } else { back_off },
        }
    }

    /// Lets an attempt pass the breaker; what comes back must hear how it ended.
    pub(crate) fn pass(self: &Arc<Self>) -> Passage {
        self.state().breaker.pass();
        Passage { endpoint: Arc::clone(self), is_decided: false }
    }

    /// Counts a failure and lets go of the connection: the next attempt makes a new one.
    pub(crate) fn failed(&self) {
        let now = Instant::now();
        self.judge(|state| {
            state.breaker.failed(now);
            state.connection = None;
        });
    }

    fn judge(&self, verdict: impl FnOnce(&mut EndpointState)) {
        let mut state = self.state();
        verdict(&mut state);
        let is_open = state.breaker.is_open();
        drop(state);
        self.metrics.show_breaker(self.index, is_open);
    }

    /// The connection, if one is open.
    pub(crate) fn open_connection(&self) -> Option<Arc<Connection>> {
        let state = self.state();
        state.connection.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// The open connection, or a new one, described.
    pub(crate) async fn connection(
        &self,
        traffic: &Traffic,
    ) -> Result<Arc<Connection>, ConnectError> {
        if let Some(connection) = self.open_connection() {
            return Ok(connection);
        }
        let connected = timeout(self.settings.connect_timeout(), self.connect(traffic))
            .await
            .unwrap_or(Err(ConnectError::Deadline(self.settings.connect_timeout_ms)));
        self.metrics.count_connection(connected.is_ok());
        let mut state = self.state();
        match connected {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.connection = Some(Arc::clone(&connection));
                state.failed_connects = 0;
                Ok(connection)
            }
            Err(error) => {
                state.back_off(&self.settings);
                Err(error)
            }
        }
    }

    async fn connect(&self, traffic: &Traffic) -> Result<Connection, ConnectError> {
        let stream = self.connect_tcp().await?;
        let sender = match &self.tls {
            None => self.handshake(stream).await?,
            Some((config, name)) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await;
                self.handshake(stream.map_err(ConnectError::Tls)?).await?
            }
        };
        let client = client(&sender, &self.target);
        let description = describe(client.clone(), traffic).await?;
        Ok(Connection { sender, client, description: Mutex::new(description) })
    }

    async fn connect_tcp(&self) -> Result<TcpStream, ConnectError> {
        let Target { host, port, .. } = &self.target;
        let resolve = |error| ConnectError::Resolve(host.clone(), error);
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(resolve)?;
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses.take(limits::ADDRESSES_MAX) {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
                    return Ok(stream);
                }
                Err(error) => failed = error,
            }
        }
        Err(ConnectError::Tcp(failed))
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Body>, ConnectError> {
        let interval = Duration::from_millis(self.settings.keepalive_interval_ms.into());
        let patience = Duration::from_millis(self.settings.keepalive_timeout_ms.into());
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(interval)
            .keep_alive_timeout(patience)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http2)?;
        let address = self.target.origin.to_string();
        // It ends when the last sender is dropped, or when the other side closes.
        tokio::spawn(async move {
            match connection.await {
                Ok(()) => tracing::debug!(cloud = address, "connection closed"),
                Err(error) => tracing::debug!(cloud = address, %error, "connection broke"),
            }
        });
        Ok(sender)
    }

    fn state(&self) -> MutexGuard<'_, EndpointState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndpointState {
    /// Full jitter on the upper half: between a half and the whole of the doubled wait.
    fn back_off(&mut self, settings: &UplinkSettings) {
        let doublings = self.failed_connects.min(limits::DOUBLINGS_MAX);
        let longest = u64::from(settings.back_off_ms) << doublings;
        let longest = longest.min(settings.back_off_max_ms.into());
        self.jitter = self.jitter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let spread = (self.jitter >> 33) % (longest / 2 + 1);
        self.next_try_at = Instant::now() + Duration::from_millis(longest - spread);
        self.failed_connects = self.failed_connects.saturating_add(1);
    }
}

/// An attempt past the breaker. Dropped undecided, it was given up.
#[derive(Debug)]
pub(crate) struct Passage {
    endpoint: Arc<Endpoint>,
    is_decided: bool,
}

impl Passage {
    pub(crate) fn succeeded(mut self) {
        self.is_decided = true;
        self.endpoint.judge(|state| state.breaker.succeeded());
    }

    pub(crate) fn failed(mut self) {
        self.is_decided = true;
        self.endpoint.failed();
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if !self.is_decided {
            let now = Instant::now();
            self.endpoint.judge(|state| state.breaker.abandoned(now));
        }
    }
}

/// An HTTP/2 connection that has been described.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    client: RelayClient<Http2>,
    description: Mutex<Description>,
}

impl Connection {
    pub(crate) fn client(&self) -> RelayClient<Http2> {
        self.client.clone()
    }

    pub(crate) fn description(&self) -> Description {
        self.description.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks again which model is there.
    pub(crate) async fn describe_again(&self, traffic: &Traffic) -> Result<(), ConnectError> {
        let description = describe(self.client(), traffic).await?;
        *self.description.lock().unwrap_or_else(PoisonError::into_inner) = description;
        Ok(())
    }

    /// Whether the other side closed it or said that it goes away.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

fn client(sender: &SendRequest<Body>, target: &Target) -> RelayClient<Http2> {
    let service = Http2 { sender: sender.clone() };
    RelayClient::with_origin(service, target.origin.clone())
        .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
}

async fn describe(
    mut client: RelayClient<Http2>,
    traffic: &Traffic,
) -> Result<Description, ConnectError> {
    let request = DescribeRequest::default();
    traffic.sent(&request);
    traffic.describes.fetch_add(1, Ordering::Relaxed);
    let answer = client.describe(request).await;
    let answer = answer.map_err(|status| ConnectError::Describe(Box::new(status)))?.into_inner();
    traffic.received(&answer);
    Description::try_from(answer).map_err(|error| ConnectError::Malformed(error.to_string()))
}

/// The transport under the generated client: one connection and no more, so that a new one cannot
/// come about without being described.
#[derive(Clone, Debug)]
pub(crate) struct Http2 {
    sender: SendRequest<Body>,
}

type Answer = Pin<Box<dyn Future<Output = hyper::Result<http::Response<Incoming>>> + Send>>;

impl Service<http::Request<Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
