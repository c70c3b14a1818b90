//! One connection of one edge: plain or TLS, with the tenant it belongs to. Owns the
//! deadlines that hyper does not keep: a peer that says nothing after connecting, one that never
//! reads a finished call, and one that is still there when the service has to go.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::store::Tenant;
use crate::tenant_places::TenantPlace;

/// Bytes of the HTTP/2 preface: a peer that has sent them speaks, and keepalive watches it.
const PREFACE_BYTES: usize = 24;

/// The connection a request came in on.
#[derive(Clone, Debug)]
pub struct Line {
    /// Whose it is.
    pub tenant: Tenant,
    hang_up: Arc<watch::Sender<bool>>,
    streams: Arc<AtomicUsize>,
}

/// One open stream of a connection. Dropped, it is closed.
#[derive(Debug)]
pub struct OpenStream {
    streams: Arc<AtomicUsize>,
    /// Whoever waits for the end of the stream sees this go.
    _open: oneshot::Sender<()>,
}

impl Line {
    fn new(tenant: Tenant) -> (Self, watch::Receiver<bool>) {
        let (hang_up, ended) = watch::channel(false);
        (Self { tenant, hang_up: Arc::new(hang_up), streams: Arc::default() }, ended)
    }

    /// Counts a stream until it is dropped. One that is open for longer than `limit` is one that
    /// the peer does not read; since HTTP/2 asks nothing of a stream whose peer grants no window,
    /// the whole connection is cut then. Also returns how many streams are open.
    pub fn open_stream(&self, limit: Duration) -> (OpenStream, usize) {
        let streams = Arc::clone(&self.streams);
        let (open, closed) = oneshot::channel();
        let count = streams.fetch_add(1, Ordering::Relaxed) + 1;
        let hang_up = Arc::clone(&self.hang_up);
        tokio::spawn(async move {
            if tokio::time::timeout(limit, closed).await.is_err() {
                tracing::info!("a connection is cut: its peer does not read a finished call");
                hang_up.send_replace(true);
            }
        });
        (OpenStream { streams, _open: open }, count)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes, encrypted or not.
#[derive(Debug)]
pub enum Wire {
    /// On loopback only.
    Plain(TcpStream),
    /// With a client certificate.
    Tls(Box<TlsStream<TcpStream>>),
}

type Ending = Pin<Box<dyn Future<Output = io::Error> + Send>>;

/// A connection that tonic serves.
pub struct Peer {
    wire: Wire,
    line: Line,
    /// Ends the connection when it completes; not polled again once it is over.
    cut: Ending,
    over: bool,
    silence: Option<Ending>,
    heard_bytes: usize,
    _places: (OwnedSemaphorePermit, TenantPlace),
}

impl Peer {
    /// A connection of this tenant. It is cut when `cut` says so, and if it stays silent for
    /// longer than `silence`; its places are free when it is dropped.
    pub fn new(
        wire: Wire,
        tenant: Tenant,
        cut: watch::Receiver<bool>,
        silence: Duration,
        places: (OwnedSemaphorePermit, TenantPlace),
    ) -> Self {
        let (line, ended) = Line::new(tenant);
        Self {
            wire,
            line,
            cut: Box::pin(cut_off(cut, ended)),
            over: false,
            silence: Some(Box::pin(silent(silence))),
            heard_bytes: 0,
            _places: places,
        }
    }

    /// An error if the connection has to end, then and ever after.
    fn poll_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.over {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let silence = self.silence.as_mut();
        let ended = silence.map_or(Poll::Pending, |silence| silence.as_mut().poll(context));
        let ended = if ended.is_ready() { ended } else { self.cut.as_mut().poll(context) };
        let Poll::Ready(error) = ended else { return Ok(()) };
        self.over = true;
        Err(error)
    }

    fn hear(&mut self, bytes: usize) {
        self.heard_bytes = self.heard_bytes.saturating_add(bytes);
        if self.heard_bytes >= PREFACE_BYTES {
            self.silence = None;
        }
    }
}

async fn cut_off(mut cut: watch::Receiver<bool>, mut ended: watch::Receiver<bool>) -> io::Error {
    // Whoever could cut is gone: so is the service.
    let why = tokio::select! {
        _ = cut.wait_for(|cut| *cut) => "the service is gone",
        _ = ended.wait_for(|ended| *ended) => "the peer does not read",
    };
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

async fn silent(limit: Duration) -> io::Error {
    tokio::time::sleep(limit).await;
    io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing")
}

impl Connected for Peer {
    type ConnectInfo = Line;

    fn connect_info(&self) -> Line {
        self.line.clone()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_end(context)?;
        let before = buffer.filled().len();
        let poll = match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        self.hear(buffer.filled().len() - before);
        poll
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_end(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_end(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(context)?;
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::tenant_places::TenantPlaces;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_mins(1);

    /// A peer and the other end of its connection.
    async fn peer(cut: watch::Receiver<bool>) -> (Peer, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let tenant: Tenant = "a".into();
        let own = TenantPlaces::new(1).take(&tenant).unwrap();
        (Peer::new(Wire::Plain(stream), tenant, cut, LATE, (place, own)), other)
    }

    #[tokio::test]
    async fn a_stream_that_is_never_read_ends_the_connection_and_a_closed_one_does_not() {
        let (_cut, cutting) = watch::channel(false);
        let (mut peer, other) = peer(cutting).await;
        let line = peer.connect_info();
        let (read_in_time, one) = line.open_stream(SOON);
        let (unread, two) = line.open_stream(SOON * 10);
        assert_eq!((one, two), (1, 2));
        drop(read_in_time);
        let waiting = tokio::time::timeout(SOON * 5, peer.read_u8()).await;
        assert!(waiting.is_err(), "still open: {waiting:?}");
        let ended = tokio::time::timeout(LATE, peer.read_u8()).await.expect("in time");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        drop((unread, other));
        assert_eq!(line.open_stream(LATE).1, 1, "closed streams are not counted");
    }
}
