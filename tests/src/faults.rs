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

/// Bytes moved at once; small, so that a cut by count is exact.
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
    /// Downstream bytes, counted from the start, after which every connection is cut.
    cut_after_down_bytes: u64,
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
            cut_after_down_bytes: u64::MAX,
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

    /// Cuts every connection once so many more bytes went down; once.
    pub fn cut_after(&self, down_bytes: u64) {
        let limit = self.down_bytes() + down_bytes;
        self.weather.send_modify(|weather| weather.cut_after_down_bytes = limit);
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
    tokio::select! {
        _ = outlived => {}
        () = forward(edge_reads, cloud_writes, weather.clone(), &counts.up_bytes, false) => {}
        () = forward(cloud_reads, edge_writes, weather.clone(), &counts.down_bytes, true) => {}
    }
}

/// Moves bytes until one side closes or a cut is due.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    counted: &AtomicU64,
    may_cut: bool,
) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        let delay = weather.borrow().delay;
        tokio::time::sleep(delay).await;
        if weather.wait_for(|now| !now.black_hole).await.is_err() {
            return;
        }
        let before = counted.fetch_add(read as u64, Ordering::Relaxed);
        let limit = weather.borrow().cut_after_down_bytes;
        let cut = may_cut && before + read as u64 >= limit;
        let deliver =
            if cut { usize::try_from(limit - before).unwrap_or(read).min(read) } else { read };
        if to.write_all(&chunk[..deliver]).await.is_err() || cut {
            return;
        }
    }
}
