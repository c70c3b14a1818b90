//! A gRPC proxy that deals each call to the next of its clouds, as a load balancer without
//! affinity would, and remembers what it dealt.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use relay_proto::v1;
use relay_proto::v1::relay_client::RelayClient;
use relay_proto::v1::relay_server::{Relay, RelayServer};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// A running proxy without TLS; dropping it ends it.
pub struct Dealer {
    address: SocketAddr,
    hand: Arc<Hand>,
    serving: JoinHandle<()>,
}

struct Hand {
    clouds: Vec<Channel>,
    next: AtomicUsize,
    dealt: Mutex<Vec<v1::CallRequest>>,
    forgotten: Mutex<Vec<v1::ForgetRequest>>,
}

impl Dealer {
    /// Deals calls to the clouds at these loopback addresses in turn.
    pub async fn start(clouds: &[SocketAddr]) -> anyhow::Result<Self> {
        let clouds = clouds
            .iter()
            .map(|cloud| Ok(Channel::from_shared(format!("http://{cloud}"))?.connect_lazy()))
            .collect::<anyhow::Result<_>>()?;
        let hand = Arc::new(Hand {
            clouds,
            next: AtomicUsize::new(0),
            dealt: Mutex::default(),
            forgotten: Mutex::default(),
        });
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let service = RelayServer::from_arc(hand.clone());
        let serving = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            // The proxy ends when the test drops it: how it ends is of no interest.
            let _ = server.serve_with_incoming(incoming).await;
        });
        Ok(Self { address, hand, serving })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The calls dealt so far, in order.
    pub async fn dealt(&self) -> Vec<v1::CallRequest> {
        self.hand.dealt.lock().await.clone()
    }

    /// The goodbyes passed on so far, in order.
    pub async fn forgotten(&self) -> Vec<v1::ForgetRequest> {
        self.hand.forgotten.lock().await.clone()
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Hand {
    fn client(&self, turn: usize) -> RelayClient<Channel> {
        RelayClient::new(self.clouds[turn % self.clouds.len()].clone())
    }
}

#[tonic::async_trait]
impl Relay for Hand {
    type CallStream = Streaming<v1::CallEvent>;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::Description>, Status> {
        // Whichever cloud is alive may speak for all.
        let message = request.into_inner();
        let mut answer = Err(Status::unavailable("no cloud"));
        for turn in 0..self.clouds.len() {
            answer = self.client(turn).describe(message).await;
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    async fn call(
        &self,
        request: Request<v1::CallRequest>,
    ) -> Result<Response<Self::CallStream>, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.dealt.lock().await.push(request.get_ref().clone());
        self.client(turn).call(request.into_inner()).await
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        let message = request.into_inner();
        self.forgotten.lock().await.push(message.clone());
        for turn in 0..self.clouds.len() {
            self.client(turn).forget(message.clone()).await?;
        }
        Ok(Response::new(v1::ForgetResponse {}))
    }
}
