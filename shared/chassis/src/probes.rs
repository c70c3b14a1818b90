//! Metrics and health over HTTP, for whoever watches the daemon: `/metrics`, `/livez`, `/readyz`.
//! Says nothing of requests or sessions, and takes nothing but GET.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::health::Health;
use crate::shutdown::Shutdown;

/// Connections served at the same time; further ones wait in the system's queue.
pub const PROBE_CONNECTIONS_MAX: usize = 32;

/// Longest life of one connection in milliseconds: a client that dawdles is cut off.
pub const PROBE_CONNECTION_MS_MAX: u64 = 10_000;

/// Most bytes held of one request before it is refused.
pub const PROBE_REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Wait after a failed accept (too many open files, say) in milliseconds, so as not to spin.
const ACCEPT_RETRY_MS: u64 = 100;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Watched {
    registry: Arc<Registry>,
    health: Health,
}

/// Answers probes until `end` begins. Give it the end of the drain, not its begin: while a daemon
/// drains it must still say that it lives and is not ready.
pub async fn serve_probes(
    listener: TcpListener,
    registry: Arc<Registry>,
    health: Health,
    end: Shutdown,
) {
    let router = router(Watched { registry, health });
    let permits = Arc::new(Semaphore::new(PROBE_CONNECTIONS_MAX));
    tokio::select! {
        () = end.begun() => {}
        () = accept(&listener, &router, &permits) => {}
    }
}

fn router(watched: Watched) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(watched)
}

async fn accept(listener: &TcpListener, router: &Router, permits: &Arc<Semaphore>) {
    // The semaphore is never closed: the loop ends only by being dropped.
    while let Ok(permit) = Arc::clone(permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve_connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => retry_later(&error).await,
        }
    }
}

async fn retry_later(error: &io::Error) {
    tracing::warn!(%error, "probe connection not accepted");
    tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(PROBE_REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let limit = Duration::from_millis(PROBE_CONNECTION_MS_MAX);
    match tokio::time::timeout(limit, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "probe connection broke"),
        Err(_) => tracing::debug!("probe connection took too long"),
    }
}

async fn metrics(State(watched): State<Watched>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &watched.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics do not encode");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn live(State(watched): State<Watched>) -> Response {
    let state = watched.health.state();
    answer(state.is_live(), state.name())
}

async fn ready(State(watched): State<Watched>) -> Response {
    let state = watched.health.state();
    answer(state.is_ready(), state.name())
}

fn answer(yes: bool, name: &'static str) -> Response {
    let status = if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, name).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HealthState;
    use crate::shutdown::Trigger;
    use prometheus_client::metrics::counter::Counter;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    struct Running {
        address: SocketAddr,
        health: Health,
        end: Trigger,
        task: JoinHandle<()>,
    }

    async fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        let calls = Counter::<u64>::default();
        calls.inc_by(7);
        registry.register("calls", "Calls served.", calls);
        let health = Health::new();
        let (shutdown, end) = Shutdown::manual();
        let task =
            tokio::spawn(serve_probes(listener, Arc::new(registry), health.clone(), shutdown));
        Running { address, health, end, task }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn status(address: SocketAddr, path: &str) -> u16 {
        get(address, path).await[9..12].parse().unwrap()
    }

    #[tokio::test]
    async fn probes_follow_health() {
        let running = start().await;
        for (state, live, ready) in [
            (HealthState::Starting, 200, 503),
            (HealthState::Ready, 200, 200),
            (HealthState::Draining, 200, 503),
            (HealthState::Failed, 503, 503),
        ] {
            running.health.advance(state);
            assert_eq!(status(running.address, "/livez").await, live, "{state:?}");
            assert_eq!(status(running.address, "/readyz").await, ready, "{state:?}");
        }
        assert_eq!(status(running.address, "/else").await, 404);
        running.end.begin();
        running.task.await.unwrap();
    }

    #[tokio::test]
    async fn metrics_come_as_open_metrics_text() {
        let running = start().await;
        let answer = get(running.address, "/metrics").await;
        assert!(answer.contains(OPEN_METRICS), "{answer}");
        assert!(answer.contains("calls_total 7"), "{answer}");
        assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_cut_off() {
        let running = start().await;
        let mut silent = TcpStream::connect(running.address).await.unwrap();
        let mut buffer = [0; 1];
        let read = silent.read(&mut buffer).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_over_the_limit_waits_for_another_to_end() {
        let running = start().await;
        let mut silent = Vec::new();
        for _ in 0..PROBE_CONNECTIONS_MAX {
            silent.push(TcpStream::connect(running.address).await.unwrap());
        }
        let asked = tokio::time::Instant::now();
        assert_eq!(status(running.address, "/livez").await, 200);
        let waited = asked.elapsed();
        assert!(waited >= Duration::from_millis(PROBE_CONNECTION_MS_MAX / 2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_end_is_refused_at_once() {
        let running = start().await;
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let begun = tokio::time::Instant::now();
        let endless = vec![b'a'; 4 * PROBE_REQUEST_BYTES_MAX];
        // The server may hang up before all of it is written: that is the point.
        let _ = stream.write_all(&endless).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        let waited = begun.elapsed();
        assert!(waited < Duration::from_millis(PROBE_CONNECTION_MS_MAX / 2), "{waited:?}");
    }
}
