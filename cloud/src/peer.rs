//! One connection of one edge: plain or TLS, with the tenant it belongs to. Owns two deadlines
//! that hyper does not keep: a peer that says nothing after connecting, and a peer that is still
//! there when the service has to go.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::store::Tenant;

/// Bytes of the HTTP/2 preface: a peer that has sent them speaks, and keepalive watches it.
const PREFACE_BYTES: usize = 24;

/// Whose connection a request came in on.
#[derive(Clone, Debug)]
pub struct PeerTenant(pub Tenant);

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
    tenant: Tenant,
    /// Ends the connection when it completes; not polled again once it is over.
    cut: Ending,
    over: bool,
    silence: Option<Ending>,
    heard_bytes: usize,
    _place: OwnedSemaphorePermit,
}

impl Peer {
    /// A connection of this tenant. It is cut when `cut` says so, and if it stays silent for
    /// longer than `silence`; its place is free when it is dropped.
    pub fn new(
        wire: Wire,
        tenant: Tenant,
        cut: watch::Receiver<bool>,
        silence: Duration,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            wire,
            tenant,
            cut: Box::pin(cut_off(cut)),
            over: false,
            silence: Some(Box::pin(silent(silence))),
            heard_bytes: 0,
            _place: place,
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

async fn cut_off(mut cut: watch::Receiver<bool>) -> io::Error {
    // Whoever could cut is gone: so is the service.
    let _ = cut.wait_for(|cut| *cut).await;
    io::Error::new(io::ErrorKind::ConnectionAborted, "the service is gone")
}

async fn silent(limit: Duration) -> io::Error {
    tokio::time::sleep(limit).await;
    io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing")
}

impl Connected for Peer {
    type ConnectInfo = PeerTenant;

    fn connect_info(&self) -> PeerTenant {
        PeerTenant(self.tenant.clone())
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
