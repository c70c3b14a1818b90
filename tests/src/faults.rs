//! A proxy that does to a connection what networks do: delay it, swallow it, cut it, count it.
//!
//! It forwards bytes and knows nothing of what they mean, so TLS passes through it unharmed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Most bytes moved at once.
const CHUNK_BYTES: usize = 4096;

/// What the proxy does to the bytes of all connections, open and new.
#[derive(Clone, Copy, Debug)]
struct Weather {
    target: SocketAddr,
    delay: Duration,
    /// Bytes are taken and never delivered; nothing is closed.
    black_hole: bool,
    /// Connections of an older generation are closed.
    generation: u64,
}

/// A running proxy; dropping it closes everything.
pub struct FaultProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
    connections: AtomicU64,
    /// Bytes that may still go down until the connection is cut, plus one; 0 is no cut.
    cut_ahead: AtomicU64,
}

impl Counts {
    /// How many of `bytes` may be delivered; fewer than all is the cut, which happens once.
    fn deliverable(&self, bytes: usize) -> usize {
        let ahead = self.cut_ahead.load(Ordering::Relaxed);
        let left = ahead.saturating_sub(bytes as u64);
        self.cut_ahead.store(left, Ordering::Relaxed);
        if ahead == 0 || left > 0 { bytes } else { usize::try_from(ahead - 1).unwrap_or(bytes) }
    }
}

impl FaultProxy {
    /// Listens on a free loopback port and forwards to `target`.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST, target).await
    }

    /// The same on another loopback address, which no certificate here is made for.
    pub async fn start_at(address: Ipv4Addr, target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let (weather, watcher) = watch::channel(Weather {
            target,
            delay: Duration::ZERO,
            black_hole: false,
            generation: 0,
        });
        let counts = Arc::new(Counts::default());
        let accepting = tokio::spawn(accept(listener, watcher, counts.clone()));
        Ok(Self { address, weather, counts, accepting })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go there.
    pub fn retarget(&self, target: SocketAddr) {
        self.weather.send_modify(|weather| weather.target = target);
    }

    /// Each chunk waits so long, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Swallows everything from now on, or stops doing so.
    pub fn black_hole(&self, on: bool) {
        self.weather.send_modify(|weather| weather.black_hole = on);
    }

    /// Closes every open connection now.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.generation += 1);
    }

    /// Cuts the connection that carries the byte after so many more downward ones; once.
    pub fn cut_after(&self, down_bytes: u64) {
        self.counts.cut_ahead.store(down_bytes + 1, Ordering::Relaxed);
    }

    /// Whether the cut that [`Self::cut_after`] asked for has happened.
    pub fn has_cut(&self) -> bool {
        self.counts.cut_ahead.load(Ordering::Relaxed) == 0
    }

    /// Bytes from edge to cloud so far, TLS and framing included.
    pub fn up_bytes(&self) -> u64 {
        self.counts.up_bytes.load(Ordering::Relaxed)
    }

    /// Bytes from cloud to edge so far.
    pub fn down_bytes(&self) -> u64 {
        self.counts.down_bytes.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, weather: watch::Receiver<Weather>, counts: Arc<Counts>) {
    while let Ok((edge, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(connect(edge, weather.clone(), counts.clone()));
    }
}

async fn connect(edge: TcpStream, weather: watch::Receiver<Weather>, counts: Arc<Counts>) {
    let born = *weather.borrow();
    let Ok(cloud) = TcpStream::connect(born.target).await else { return };
    let _ = (edge.set_nodelay(true), cloud.set_nodelay(true));
    let (edge_reads, edge_writes) = edge.into_split();
    let (cloud_reads, cloud_writes) = cloud.into_split();
    let mut ends = weather.clone();
    let outlived = ends.wait_for(|now| now.generation > born.generation);
    let upward = forward(edge_reads, cloud_writes, weather.clone(), |bytes| {
        counts.up_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        bytes
    });
    let downward = forward(cloud_reads, edge_writes, weather.clone(), |bytes| {
        counts.down_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        counts.deliverable(bytes)
    });
    tokio::select! {
        _ = outlived => {}
        () = upward => {}
        () = downward => {}
    }
}

/// Moves bytes until one side closes or fewer than all may be delivered.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    deliverable: impl Fn(usize) -> usize,
) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let delay = weather.borrow().delay;
        tokio::time::sleep(delay).await;
        if weather.wait_for(|now| !now.black_hole).await.is_err() {
            return;
        }
        let deliver = deliverable(read);
        if to.write_all(&chunk[..deliver]).await.is_err() || deliver < read {
            return;
        }
    }
}
