//! The life of a service: listen, load, be ready, drain, stop. Owns the order of these and their
//! time limits, so that nothing, not even a peer that never reads, can keep it from ending.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::registry::Registry;
use relay_chassis::health::{Health, HealthState};
use relay_chassis::shutdown::{Shutdown, Trigger};
use relay_chassis::tls_reload::ReloadingTls;
use relay_chassis::{listen, probes};
use relay_model::{LoadedModel, LogitsWanted, ModelError, Row};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::config::CloudSettings;
use crate::engine::{Engine, EngineHandle, EngineParts};
use crate::error::ServeError;
use crate::listener::{Door, Incoming};
use crate::metrics::{Bound, Metrics};
use crate::service::LateRelay;
use crate::tenant_places::TenantPlaces;

mod limits {
    use std::time::Duration;

    /// How long connections may take to close by themselves once their calls have ended.
    pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);
    /// How long they may take once they are cut, and the engine for its last step.
    pub(super) const CUT_GRACE: Duration = Duration::from_secs(1);
    /// Keepalive of idle connections, and how long its answer may take.
    pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);
    pub(super) const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
    /// Most bytes of a request's headers.
    pub(super) const HEADER_BYTES_MAX: u32 = 16 * 1024;
    /// Bytes of one stream that may be under way to us.
    pub(super) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
    /// Streams reset by a peer that are not yet cleared away.
    pub(super) const PENDING_RESETS_MAX: usize = 32;
    /// How often the TLS files are looked at for new certificates.
    pub(super) const TLS_REREAD: Duration = Duration::from_secs(10);
    /// How often gauges that nobody pushes are read.
    pub(super) const GAUGE_PERIOD: Duration = Duration::from_secs(1);
}

/// Serves on `listener` until the shutdown begins and the drain is over. `load` brings the model,
/// on a thread of its own; meanwhile health says that it is not ready.
///
/// # Errors
/// [`ServeError`] if a setting does not fit, the model does not load or decode, or the engine
/// ends of itself. A drain is no error.
pub async fn serve(
    settings: CloudSettings,
    load: impl FnOnce() -> Result<LoadedModel, ModelError> + Send + 'static,
    listener: TcpListener,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    settings.validate()?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let (end, end_of_probes) = serve_probes(&settings, registry, &health).await?;
    let front = Front::open(&settings, listener, &metrics, &health)?;
    let outcome = run(&settings, load, &front, (&metrics, &health), &shutdown).await;
    health.advance(HealthState::Draining);
    front.close().await;
    end.begin();
    // Probes answer until the end of the drain, and no longer.
    let _ = end_of_probes.await;
    outcome
}

/// From loading to the end of the drain.
async fn run(
    settings: &CloudSettings,
    load: impl FnOnce() -> Result<LoadedModel, ModelError> + Send + 'static,
    front: &Front,
    (metrics, health): (&Metrics, &Health),
    shutdown: &Shutdown,
) -> Result<(), ServeError> {
    let loading = tokio::task::spawn_blocking(move || load_and_warm_up(load));
    let loaded = tokio::select! {
        loaded = loading => loaded.map_err(|_| ServeError::EngineEnded)??,
        () = shutdown.begun() => return Ok(()),
    };
    let (engine, mut ended) = start_engine(settings, loaded, metrics, health)?;
    front.relay.begin(engine.clone());
    health.advance(HealthState::Ready);
    tokio::select! {
        _ = &mut ended => return Err(ServeError::EngineEnded),
        () = shutdown.begun() => {}
    }
    health.advance(HealthState::Draining);
    drain(&engine, Duration::from_secs(settings.drain_timeout_s), front).await;
    engine.stop();
    // A step that hangs ends with the process.
    let _ = tokio::time::timeout(limits::CUT_GRACE, ended).await;
    Ok(())
}

/// New calls are refused, connections told to go, and running calls waited for up to the limit;
/// the engine ends what is left then, so the wait has an end of its own only for a hung step.
async fn drain(engine: &EngineHandle, timeout: Duration, front: &Front) {
    tracing::info!(timeout_s = timeout.as_secs(), "draining");
    engine.drain(Instant::now() + timeout);
    front.stop.begin();
    let over = tokio::time::timeout(timeout + limits::CUT_GRACE, engine.drained()).await;
    if over.is_err() {
        tracing::warn!("the engine did not end its calls in time");
    }
}

/// Loads, and runs one decode, so that the first call meets warm weights and a broken model is
/// found before anyone is told that it is ready.
fn load_and_warm_up(
    load: impl FnOnce() -> Result<LoadedModel, ModelError>,
) -> Result<LoadedModel, ServeError> {
    let began = Instant::now();
    let mut loaded = load()?;
    let mut cache = loaded.model.new_cache();
    let row = Row { tokens: &[0], cache: &mut cache, logits: LogitsWanted::Last };
    let warmed = loaded.model.forward(&mut [row]);
    let reason = match warmed {
        Err(error) => error.to_string(),
        Ok(logits) => {
            let last = logits.first().and_then(|logits| logits.last());
            if last.is_some_and(|logits| logits.iter().any(|logit| logit.is_finite())) {
                let took_ms = began.elapsed().as_millis();
                tracing::info!(model = loaded.identity.name, took_ms, "model loaded");
                return Ok(loaded);
            }
            "no logit is a number".to_owned()
        }
    };
    Err(ServeError::WarmUp { reason })
}

/// Starts the engine's thread; the receiver ends when the thread does.
fn start_engine(
    settings: &CloudSettings,
    loaded: LoadedModel,
    metrics: &Metrics,
    health: &Health,
) -> Result<(EngineHandle, oneshot::Receiver<()>), ServeError> {
    let description = settings.describe(&loaded);
    let shape = loaded.model.shape();
    let limits = settings.engine_limits(&description, shape.kv_bytes_per_token)?;
    let (engine, handle) = Engine::new(EngineParts {
        model: loaded.model,
        tokenizer: loaded.tokenizer,
        description,
        limits,
        clock: Arc::new(Instant::now),
        metrics: metrics.clone(),
        health: health.clone(),
    });
    let (alive, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("engine".to_owned());
    let spawned = thread.spawn(move || {
        let _alive: oneshot::Sender<()> = alive;
        engine.run();
    });
    match spawned {
        Ok(_) => Ok((handle, ended)),
        Err(source) => Err(ServeError::System { action: "start the engine's thread", source }),
    }
}

/// Probes and metrics, if an address is set: a trigger that ends them, and when they have ended.
async fn serve_probes(
    settings: &CloudSettings,
    registry: Registry,
    health: &Health,
) -> Result<(Trigger, JoinHandle<()>), ServeError> {
    let (shutdown, end) = Shutdown::manual();
    let Some(address) = settings.probes_listen else {
        return Ok((end, tokio::spawn(async {})));
    };
    let listener = listen::bind(address, "probes_listen").await?;
    let probes = probes::serve_probes(listener, Arc::new(registry), health.clone(), shutdown);
    Ok((end, tokio::spawn(probes)))
}

/// The side that faces the network.
struct Front {
    relay: LateRelay,
    /// Closes the socket and sends GOAWAY.
    stop: Trigger,
    /// Cuts every connection.
    cut: watch::Sender<bool>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    watching: Vec<JoinHandle<()>>,
}

impl Front {
    /// Accepts connections and answers health, though nothing else yet.
    fn open(
        settings: &CloudSettings,
        listener: TcpListener,
        metrics: &Metrics,
        health: &Health,
    ) -> Result<Self, ServeError> {
        let (stopping, stop) = Shutdown::manual();
        let (cut, cutting) = watch::channel(false);
        let door = door(settings, cutting, metrics)?;
        let (connections_max, handshakes_max) =
            (settings.connections_max as usize, settings.handshakes_max as usize);
        metrics.set_limit(Bound::Connections, connections_max);
        metrics.set_limit(Bound::TenantConnections, settings.tenant_connections_max());
        metrics.set_limit(Bound::Handshakes, handshakes_max);
        metrics.set_limit(Bound::ConnectionStreams, settings.connection_streams_max as usize);
        let gauges = note_gauges(door.clone(), connections_max, handshakes_max, metrics.clone());
        let reporter = HealthReporter::new();
        let follow = follow_health(reporter.clone(), health.watch());
        let relay = LateRelay::default();
        let accepting = stopping.clone();
        let reread = stopping.clone();
        let tls = door.tls.clone();
        let following = tls.map(|tls| tls.follow(limits::TLS_REREAD, reread));
        let incoming = door.open(listener, async move { accepting.begun().await });
        let serving = serve_grpc(settings, incoming, relay.clone(), reporter, stopping);
        let mut watching = vec![tokio::spawn(gauges), tokio::spawn(follow)];
        watching.extend(following.map(tokio::spawn));
        Ok(Self { relay, stop, cut, serving, watching })
    }

    /// Waits a moment for connections to close, then cuts them.
    async fn close(mut self) {
        self.stop.begin();
        let closed = tokio::time::timeout(limits::CLOSE_GRACE, &mut self.serving).await;
        if closed.is_err() {
            tracing::info!("cutting connections that did not close");
            self.cut.send_replace(true);
            let cut = tokio::time::timeout(limits::CUT_GRACE, &mut self.serving).await;
            if cut.is_err() {
                self.serving.abort();
            }
        }
        self.watching.iter().for_each(JoinHandle::abort);
    }
}

fn door(
    settings: &CloudSettings,
    cut: watch::Receiver<bool>,
    metrics: &Metrics,
) -> Result<Door, ServeError> {
    let files = settings.tls_files()?;
    let tls = files.map(|files| ReloadingTls::server(&files)).transpose()?;
    Ok(Door {
        tls,
        handshake_timeout: Duration::from_millis(settings.handshake_timeout_ms),
        handshakes: Arc::new(Semaphore::new(settings.handshakes_max as usize)),
        connections: Arc::new(Semaphore::new(settings.connections_max as usize)),
        tenant_connections: TenantPlaces::new(settings.tenant_connections_max()),
        cut,
        metrics: metrics.clone(),
    })
}

fn serve_grpc(
    settings: &CloudSettings,
    incoming: Incoming,
    relay: LateRelay,
    reporter: HealthReporter,
    stopping: Shutdown,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let health = HealthServer::new(HealthService::from_health_reporter(reporter));
    let router = Server::builder()
        .http2_keepalive_interval(Some(limits::KEEPALIVE))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_ANSWER))
        .http2_max_header_list_size(limits::HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::PENDING_RESETS_MAX))
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .max_concurrent_streams(settings.connection_streams_max)
        .add_service(health)
        .add_service(relay);
    tokio::spawn(router.serve_with_incoming_shutdown(incoming, async move {
        stopping.begun().await;
    }))
}

/// Tells gRPC health what the daemon's is, for the whole server and for the relay service.
async fn follow_health(reporter: HealthReporter, mut health: watch::Receiver<HealthState>) {
    loop {
        let ready = health.borrow_and_update().is_ready();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in ["", LateRelay::NAME] {
            reporter.set_service_status(name, status).await;
        }
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Reads what nobody pushes: places taken, and how long the certificate still holds.
async fn note_gauges(door: Door, connections_max: usize, handshakes_max: usize, metrics: Metrics) {
    let mut period = tokio::time::interval(limits::GAUGE_PERIOD);
    loop {
        period.tick().await;
        door.note_state(connections_max, handshakes_max);
        if let Some(tls) = &door.tls {
            let left = tls.expiry().duration_since(SystemTime::now()).unwrap_or_default();
            metrics.certificate_ends_seconds.set(left.as_secs_f64());
            metrics.certificate_reload_failures.set(clamp(tls.failures()));
        }
    }
}

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
