//! From a listening socket to connections with a tenant: accept, TLS handshake, certificate. Each
//! wait has a bound, and a peer that fails is closed without touching the others. It must not know
//! what is spoken on a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use relay_chassis::tenant::{TenantName, tenant_of};
use relay_chassis::tls_reload::ReloadingTls;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::metrics::{Bound, Metrics};
use crate::peer::{Peer, Wire};
use crate::store::Tenant;
use crate::tenant_places::TenantPlaces;

mod limits {
    use std::time::Duration;

    /// Connections that are accepted but not yet served.
    pub(super) const BACKLOG_MAX: usize = 16;
    /// How long a failed accept (no file descriptors, mostly) rests before the next one.
    pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
}

/// How connections come in.
#[derive(Clone)]
pub struct Door {
    /// TLS, or none on loopback.
    pub tls: Option<ReloadingTls<ServerConfig>>,
    /// Longest handshake, and longest silence after it.
    pub handshake_timeout: Duration,
    /// Most handshakes at once.
    pub handshakes: Arc<Semaphore>,
    /// Most connections.
    pub connections: Arc<Semaphore>,
    /// Most connections of one tenant.
    pub tenant_connections: TenantPlaces,
    /// Cuts every connection when it turns true.
    pub cut: watch::Receiver<bool>,
    /// The counters.
    pub metrics: Metrics,
}

/// What tonic serves from.
pub type Incoming = ReceiverStream<io::Result<Peer>>;

/// Why a connection was closed before it was served.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error("no place for another connection (`connections_max`)")]
    Connections,
    #[error("its tenant has its share of connections (`tenant_share_percent`)")]
    TenantConnections,
    #[error("no place for another handshake (`handshakes_max`)")]
    Handshakes,
    #[error("the handshake took longer than `handshake_timeout_ms`")]
    Slow,
    #[error("the handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the certificate names no tenant: {0}")]
    Tenant(String),
}

impl Rejected {
    const fn name(&self) -> &'static str {
        match self {
            Self::Connections => "connections_max",
            Self::TenantConnections => "tenant_share_percent",
            Self::Handshakes => "handshakes_max",
            Self::Slow => "handshake_timeout",
            Self::Handshake(_) => "handshake",
            Self::Tenant(_) => "tenant",
        }
    }
}

impl Door {
    /// Accepts until `stop` completes, then closes the socket. Must be called in a runtime.
    pub fn open(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Incoming {
        let (peers, incoming) = mpsc::channel(limits::BACKLOG_MAX);
        tokio::spawn(async move {
            tokio::select! {
                () = stop => {}
                () = self.accept_all(&listener, &peers) => {}
            }
        });
        ReceiverStream::new(incoming)
    }

    async fn accept_all(&self, listener: &TcpListener, peers: &mpsc::Sender<io::Result<Peer>>) {
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let (door, peers) = (self.clone(), peers.clone());
                    tokio::spawn(async move {
                        match door.admit(stream).await {
                            // Nobody serves any more: the connection closes.
                            Ok(peer) => drop(peers.send(Ok(peer)).await),
                            Err(rejected) => door.note(&rejected, address),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(&self, stream: TcpStream) -> Result<Peer, Rejected> {
        let place = Arc::clone(&self.connections).try_acquire_owned();
        let place = place.map_err(|_| Rejected::Connections)?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps Nagle's delay");
        }
        match &self.tls {
            None => self.peer(Wire::Plain(stream), TenantName::local().as_str().into(), place),
            Some(tls) => {
                let _handshake = self.handshakes.try_acquire().map_err(|_| Rejected::Handshakes)?;
                let accepted = tokio::time::timeout(
                    self.handshake_timeout,
                    TlsAcceptor::from(tls.current()).accept(stream),
                );
                let accepted = accepted.await.map_err(|_| Rejected::Slow)?;
                let stream = accepted.map_err(Rejected::Handshake)?;
                let tenant = tenant_of_peer(&stream)?;
                self.peer(Wire::Tls(Box::new(stream)), tenant, place)
            }
        }
    }

    fn peer(
        &self,
        wire: Wire,
        tenant: Tenant,
        place: OwnedSemaphorePermit,
    ) -> Result<Peer, Rejected> {
        let own = self.tenant_connections.take(&tenant).ok_or(Rejected::TenantConnections)?;
        Ok(Peer::new(wire, tenant, self.cut.clone(), self.handshake_timeout, (place, own)))
    }

    fn note(&self, rejected: &Rejected, address: std::net::SocketAddr) {
        tracing::info!(%address, reason = %rejected, "a connection is refused");
        self.metrics.count_connection_refused(rejected.name());
    }

    /// Tells the gauges how many places are taken.
    pub fn note_state(&self, connections_max: usize, handshakes_max: usize) {
        let taken = |places: &Semaphore, max: usize| max.saturating_sub(places.available_permits());
        let metrics = &self.metrics;
        metrics.set_used(Bound::Connections, taken(&self.connections, connections_max));
        metrics.set_used(Bound::TenantConnections, self.tenant_connections.most());
        metrics.set_used(Bound::Handshakes, taken(&self.handshakes, handshakes_max));
    }
}

fn tenant_of_peer(stream: &tokio_rustls::server::TlsStream<TcpStream>) -> Result<Tenant, Rejected> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let none = || Rejected::Tenant("no certificate was shown".to_owned());
    let name = tenant_of(certificate.ok_or_else(none)?);
    let name = name.map_err(|error| Rejected::Tenant(error.to_string()))?;
    Ok(name.as_str().into())
}
