//! The gRPC surface: converts, names the tenant, hands to the engine and streams what comes back.
//! Decides nothing. While the weights load it says that it is not there yet.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request as HttpRequest, Response as HttpResponse};
use relay::call::CallRequest;
use relay::ids::SessionId;
use relay_proto::convert::Malformed;
use relay_proto::size::{FRAME_HEADER_BYTES, frame_bytes};
use relay_proto::v1;
use relay_proto::v1::relay_server::{Relay, RelayServer};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status};

use crate::call::CallEvents;
use crate::engine::EngineHandle;
use crate::error::CallError;
use crate::metrics::Bound;
use crate::peer::{Line, OpenStream};

mod limits {
    use std::time::Duration;

    /// How long a call's stream may stay open after the call's budget; a peer that has not read it
    /// by then loses its connection.
    pub(super) const UNREAD_MAX: Duration = Duration::from_secs(30);
}

/// The service of one engine.
#[derive(Debug)]
pub struct CloudService {
    engine: EngineHandle,
}

/// A call's events as messages. Dropping it drops the events, which cancels the call.
#[derive(Debug)]
pub struct CallStream {
    events: CallEvents,
    _open: OpenStream,
}

impl Stream for CallStream {
    type Item = Result<v1::CallEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.events.poll_recv(context);
        item.map(|item| item.map(|item| item.map(Into::into).map_err(Into::into)))
    }
}

impl CloudService {
    /// The gRPC service of an engine, with its message limit.
    pub fn serve(engine: EngineHandle) -> RelayServer<Self> {
        let message_bytes_max = engine.description().limits.message_bytes_max as usize;
        RelayServer::new(Self { engine }).max_decoding_message_size(message_bytes_max)
    }
}

#[tonic::async_trait]
impl Relay for CloudService {
    type CallStream = CallStream;

    async fn describe(
        &self,
        _request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::Description>, Status> {
        Ok(Response::new(self.engine.description().clone().into()))
    }

    async fn call(
        &self,
        request: Request<v1::CallRequest>,
    ) -> Result<Response<CallStream>, Status> {
        let line = line_of(&request)?;
        let bytes = frame_bytes(request.get_ref()) - FRAME_HEADER_BYTES;
        self.engine.metrics().note_most(Bound::MessageBytes, bytes);
        let request: CallRequest = request.into_inner().try_into().map_err(CallError::from)?;
        let budget_ms_max = self.engine.description().limits.budget_ms_max;
        let budget = Duration::from_millis(request.budget_ms.min(budget_ms_max).into());
        let events = self.engine.call(Arc::clone(&line.tenant), request)?;
        let (open, streams) = line.open_stream(budget + limits::UNREAD_MAX);
        self.engine.metrics().note_most(Bound::ConnectionStreams, streams);
        Ok(Response::new(CallStream { events, _open: open }))
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        let tenant = line_of(&request)?.tenant;
        let session: SessionId = request.into_inner().try_into().map_err(CallError::from)?;
        self.engine.forget(tenant, session).await?;
        Ok(Response::new(v1::ForgetResponse {}))
    }
}

fn line_of<T>(request: &Request<T>) -> Result<Line, Status> {
    let none = || Status::unauthenticated("the connection has no tenant; connect with TLS");
    request.extensions().get::<Line>().cloned().ok_or_else(none)
}

impl From<Malformed> for CallError {
    fn from(error: Malformed) -> Self {
        Self::malformed(error.to_string())
    }
}

/// The relay service from the moment there is an engine; until then each request is told to come
/// back. Health and probes answer meanwhile.
#[derive(Clone, Debug, Default)]
pub struct LateRelay(Arc<OnceLock<RelayServer<CloudService>>>);

impl LateRelay {
    /// From now on requests go to this engine. Only the first one counts.
    pub fn begin(&self, engine: EngineHandle) {
        self.0.get_or_init(|| CloudService::serve(engine));
    }
}

impl NamedService for LateRelay {
    const NAME: &'static str = <RelayServer<CloudService> as NamedService>::NAME;
}

type RelayFuture = <RelayServer<CloudService> as Service<HttpRequest<Body>>>::Future;
type Answer = Result<HttpResponse<Body>, std::convert::Infallible>;

/// Either the service's answer or that it is not there.
pub enum LateFuture {
    /// The service works on it.
    Served(RelayFuture),
    /// There is no engine yet.
    Loading(Ready<Answer>),
}

impl Future for LateFuture {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        match &mut *self {
            Self::Served(future) => future.as_mut().poll(context).map_ok(clear_size_error),
            Self::Loading(future) => Pin::new(future).poll(context),
        }
    }
}

impl Service<HttpRequest<Body>> for LateRelay {
    type Response = HttpResponse<Body>;
    type Error = std::convert::Infallible;
    type Future = LateFuture;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> LateFuture {
        match self.0.get() {
            Some(relay) => LateFuture::Served(relay.clone().call(request)),
            None => LateFuture::Loading(ready(Ok(Status::from(CallError::Loading).into_http()))),
        }
    }
}

/// tonic answers a message over the limit with its own words and `OUT_OF_RANGE`, before our code
/// sees it. The edge is told which limit it is, with the status that means one.
fn clear_size_error(response: HttpResponse<Body>) -> HttpResponse<Body> {
    let status = Status::from_header_map(response.headers());
    match status {
        Some(status) if status.code() == Code::OutOfRange => {
            Status::from(CallError::TooLarge { reason: status.message().to_owned() }).into_http()
        }
        _ => response,
    }
}
