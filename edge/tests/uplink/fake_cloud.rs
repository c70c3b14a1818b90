//! A fake cloud: a real gRPC server on loopback that has no model and says what a test scripted.
//! Its tokens depend on their position alone, so that a token added twice or left out is seen.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use relay::call::{
    Accepted, CallEvent, CallLimits, CallRequest, CloudToken, Description, FinishReason, Finished,
};
use relay::ids::{Fingerprint, ModelId};
use relay::refusal::Refusal;
use relay_proto::size::frame_bytes;
use relay_proto::v1;
use relay_proto::v1::relay_server::{Relay, RelayServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

/// What one Call gets.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// All that was asked for.
    Serve,
    /// So many tokens, then the status.
    Break(u32, Code),
    /// So many tokens, then the end without a last word.
    Stop(u32),
    /// So many tokens, then this reason.
    Finish(u32, FinishReason),
    /// So many tokens, then nothing for ever.
    FallSilent(u32),
    /// Admit, then serve only after so long.
    Queue(Duration),
    /// A token that is not the next one.
    Skip,
    /// A token with this id.
    Say(u32),
    /// An expected no.
    Refuse(Refusal),
    /// Refuse for another model, and be that model from now on.
    ChangeModel(ModelId),
}

#[derive(Debug)]
struct State {
    description: Description,
    script: VecDeque<Reply>,
    requests: Vec<CallRequest>,
    describes: usize,
    forgotten: usize,
    sent_bytes: usize,
    /// Each open stream holds a clone.
    streams: Arc<()>,
}

/// The handle of a test.
#[derive(Debug)]
pub(crate) struct FakeCloud {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

pub(crate) fn description(fingerprint: Fingerprint) -> Description {
    Description {
        protocol_version: 1,
        model: ModelId::new("fake", [1; 8]),
        fingerprint,
        context_tokens: 512,
        limits: CallLimits {
            call_tokens_max: 64,
            delta_tokens_max: 512,
            draft_tokens_max: 2,
            message_bytes_max: 64 * 1024,
            budget_ms_max: 60_000,
        },
    }
}

impl FakeCloud {
    pub(crate) async fn start(description: Description, script: &[Reply]) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), description, script).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        description: Description,
        script: &[Reply],
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            description,
            script: script.iter().cloned().collect(),
            requests: Vec::new(),
            describes: 0,
            forgotten: 0,
            sent_bytes: 0,
            streams: Arc::new(()),
        }));
        let (stop, stopped) = oneshot::channel::<()>();
        let service = RelayServer::new(FakeService { state: Arc::clone(&state) });
        let server = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            let incoming = TcpListenerStream::new(listener);
            let served = Server::builder().add_service(service);
            served.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        Self { address, state, stop: Some(stop), server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says GOAWAY, finishes what runs and closes the port.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.server).await.unwrap();
    }

    pub(crate) fn requests(&self) -> Vec<CallRequest> {
        self.lock().requests.clone()
    }

    /// Counts the requests from any thread.
    pub(crate) fn request_counter(&self) -> impl Fn() -> usize + Send + 'static {
        let state = Arc::clone(&self.state);
        move || state.lock().unwrap().requests.len()
    }

    /// Frames of all messages sent.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.lock().sent_bytes as u64
    }

    /// Streams that nobody has reset or read to their end.
    pub(crate) fn open_streams(&self) -> usize {
        self.stream_counter()()
    }

    /// Counts the open streams from any thread.
    pub(crate) fn stream_counter(&self) -> impl Fn() -> usize + Send + 'static {
        let state = Arc::clone(&self.state);
        move || Arc::strong_count(&state.lock().unwrap().streams) - 1
    }

    pub(crate) fn describes(&self) -> usize {
        self.lock().describes
    }

    pub(crate) fn forgotten(&self) -> usize {
        self.lock().forgotten
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FakeCloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What the LLM of every fake cloud writes at a position of the cloud view.
pub(crate) fn token_at(position: u32) -> u32 {
    u32::from(b'A') + position % 26
}

struct FakeService {
    state: Arc<Mutex<State>>,
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::CallEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Relay for FakeService {
    type CallStream = Events;

    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::Description>, Status> {
        let mut state = self.state.lock().unwrap();
        state.describes += 1;
        let description = v1::Description::from(state.description.clone());
        state.sent_bytes += frame_bytes(&description);
        Ok(Response::new(description))
    }

    async fn call(&self, request: Request<v1::CallRequest>) -> Result<Response<Events>, Status> {
        let request = CallRequest::try_from(request.into_inner()).unwrap();
        let mut state = self.state.lock().unwrap();
        state.requests.push(request.clone());
        let reply = state.script.pop_front().unwrap_or(Reply::Serve);
        if let Reply::ChangeModel(model) = &reply {
            state.description.model = model.clone();
        }
        let open = Arc::clone(&state.streams);
        let counted = Arc::clone(&self.state);
        let events = stream(reply, &request).map(move |event| {
            let _ = &open;
            if let Ok(event) = &event {
                counted.lock().unwrap().sent_bytes += frame_bytes(event);
            }
            event
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn forget(
        &self,
        _: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ForgetResponse>, Status> {
        self.state.lock().unwrap().forgotten += 1;
        Ok(Response::new(v1::ForgetResponse {}))
    }
}

fn stream(reply: Reply, request: &CallRequest) -> Events {
    let length = request.base_tokens + u32::try_from(request.delta.len()).unwrap();
    let finished = |reason| {
        let (timings, load) = Default::default();
        Ok(CallEvent::Finished(Finished { reason, timings, load }))
    };
    let (first, tokens, last) = match reply {
        Reply::Serve => (0, request.max_tokens, Some(finished(FinishReason::Length))),
        Reply::Break(tokens, code) => (0, tokens, Some(Err(Status::new(code, "scripted")))),
        Reply::Finish(tokens, reason) => (0, tokens, Some(finished(reason))),
        Reply::Stop(tokens) => (0, tokens, None),
        Reply::Skip => (1, 1, None),
        Reply::Say(id) => {
            let mut said = events(length, 0, 1);
            if let Some(CallEvent::Token(token)) = said.last_mut() {
                token.id = id;
            }
            return silent(said);
        }
        Reply::Queue(wait) => {
            let all = events(length, 0, request.max_tokens).into_iter().map(Ok);
            return queued(all.chain([finished(FinishReason::Length)]).collect(), wait);
        }
        Reply::FallSilent(tokens) => return silent(events(length, 0, tokens)),
        Reply::Refuse(refusal) => return once(CallEvent::Refused(refusal)),
        Reply::ChangeModel(_) => return once(CallEvent::Refused(Refusal::ModelMismatch)),
    };
    let all = events(length, first, tokens).into_iter().map(Ok).chain(last);
    Box::pin(tokio_stream::iter(all.map(|event| event.map(v1::CallEvent::from))))
}

fn once(event: CallEvent) -> Events {
    Box::pin(tokio_stream::once(Ok(event.into())))
}

fn silent(events: Vec<CallEvent>) -> Events {
    let said = tokio_stream::iter(events.into_iter().map(|event| Ok(event.into())));
    Box::pin(said.chain(tokio_stream::pending()))
}

/// The first event at once, the others later.
fn queued(events: Vec<Result<CallEvent, Status>>, wait: Duration) -> Events {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for (index, event) in events.into_iter().enumerate() {
            if index == 1 {
                tokio::time::sleep(wait).await;
            }
            if sender.send(event.map(v1::CallEvent::from)).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

fn events(length: u32, first: u32, tokens: u32) -> Vec<CallEvent> {
    let accepted = Accepted { length_tokens: length, cached_tokens: 0, prefilled_tokens: length };
    let tokens = (length + first..length + first + tokens).map(|position| {
        let log_probability = -0.5;
        CallEvent::Token(CloudToken { id: token_at(position), log_probability, position })
    });
    [CallEvent::Accepted(accepted)].into_iter().chain(tokens).collect()
}
