//! The edge's end of the wire: an attempt goes out, and what comes back of it arrives as signals.
//! It owns endpoints, deadlines and breakers. Whether a failed attempt is made again is not decided
//! here: the machine says so, and by which route.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use relay::call::{CallEvent, CallRequest, Description, FinishReason, PROTOCOL_VERSION, Sampling};
use relay::effect::{CallOrder, Route};
use relay::event::Event;
use relay::ids::{Attempt, Fingerprint, ModelId, SessionId};
use relay::refusal::{LimitField, Refusal};
use relay_model::Tokenizer;
use relay_proto::v1;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::config::EdgeSettings;
use crate::endpoint::{ConnectError, Connection, Endpoint, EndpointParts, Passage, Traffic, root};
use crate::error::EdgeError;
use crate::metrics::Metrics;
use crate::routing::Trail;
use crate::vocabulary::token_text;

mod limits {
    use std::time::Duration;

    /// Signals of one attempt that wait for the session; beyond, the stream is not read.
    pub(super) const SIGNALS: usize = 64;
    /// How long the goodbye of a conversation may take.
    pub(super) const FORGET: Duration = Duration::from_millis(500);
}

const UNREACHABLE: &str = "the cloud cannot be reached";

/// All endpoints, shared by the sessions of a program.
#[derive(Debug)]
pub struct Uplink {
    endpoints: Vec<Arc<Endpoint>>,
    idle: Duration,
    grace: Duration,
    vocabulary: Vocabulary,
}

/// What a cloud must have in common with the SLM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Of the SLM's tokenizer.
    pub fingerprint: Fingerprint,
    /// One more than the SLM's highest id.
    pub tokens: usize,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// The cloud at the other end, before anything is sent to it.
    Described(Description),
    /// One message of the stream.
    Cloud(CallEvent),
    /// The stream broke, or none came about; asking again may help.
    Cut,
    /// No endpoint is left, or asking again cannot help.
    LinkDown,
}

impl Signal {
    /// The same for the machine; none where it only concerns the driver.
    pub fn event(self, attempt: Attempt, tokenizer: &Tokenizer) -> Option<Event> {
        Some(match self {
            Self::Described(_) => return None,
            Self::Cloud(CallEvent::Accepted(accepted)) => Event::Accepted { attempt, accepted },
            // By our own vocabulary it ends the text: such a token enters no view.
            Self::Cloud(CallEvent::Token(token)) if tokenizer.ends_text(token.id) => {
                Event::CloudStopped { attempt, reason: FinishReason::EndOfText }
            }
            Self::Cloud(CallEvent::Token(token)) => {
                let bytes = token_text(tokenizer, token.id).to_vec();
                Event::CloudToken { attempt, token, bytes }
            }
            Self::Cloud(CallEvent::Finished(finished)) => {
                Event::CloudStopped { attempt, reason: finished.reason }
            }
            Self::Cloud(CallEvent::Refused(refusal)) => Event::Refused { attempt, refusal },
            Self::Cut => Event::Cut { attempt },
            Self::LinkDown => Event::LinkDown { attempt },
        })
    }
}

impl Uplink {
    /// Checks addresses and certificates; connects to nobody yet.
    ///
    /// # Errors
    /// [`EdgeError::Config`], [`EdgeError::Tls`], [`EdgeError::Randomness`].
    pub fn new(
        settings: &EdgeSettings,
        vocabulary: Vocabulary,
        metrics: &Metrics,
    ) -> Result<Self, EdgeError> {
        let tls = settings.tls.as_ref().map(relay_chassis::tls::client_config).transpose()?;
        let jitter = getrandom::u64().map_err(EdgeError::Randomness)?;
        let mut endpoints = Vec::new();
        for (index, target) in settings.targets()?.into_iter().enumerate() {
            let parts = EndpointParts {
                index,
                target,
                tls: tls.clone(),
                settings: &settings.uplink,
                breaker: &settings.breaker,
                metrics: metrics.clone(),
                jitter: jitter.wrapping_add(index as u64),
            };
            endpoints.push(Arc::new(Endpoint::new(parts)?));
        }
        let idle = settings.uplink.idle_timeout();
        let grace = settings.uplink.budget_grace();
        Ok(Self { endpoints, idle, grace, vocabulary })
    }

    /// What the first cloud of the list says that it is, over a connection that later calls use.
    /// `None` if it cannot be reached: [`Uplink::last_fault`] says why.
    pub async fn describe(&self) -> Option<Description> {
        let endpoint = self.endpoints.first()?;
        let connected = endpoint.connection(&Traffic::default()).await;
        let connected = connected.inspect_err(|error| endpoint.tell(UNREACHABLE, error));
        Some(connected.ok()?.description())
    }

    /// What was wrong last with a cloud, for drivers that cannot go on without one.
    pub fn last_fault(&self) -> Option<String> {
        self.endpoints.iter().find_map(|endpoint| endpoint.last_fault())
    }
}

/// A session's line through the uplink: where it has been, and what it sent for this answer.
#[derive(Debug)]
pub struct Line {
    uplink: Arc<Uplink>,
    session: SessionId,
    trail: Trail,
    used: BTreeSet<usize>,
    traffic: Arc<Traffic>,
}

/// What an attempt says beside the machine's order.
#[derive(Clone, Debug)]
pub struct Ask {
    /// How the LLM draws.
    pub sampling: Sampling,
    /// What its noise depends on.
    pub seed: u64,
    /// The SLM's guess of what follows.
    pub draft: Vec<u32>,
    /// End of the budget, the grace not counted.
    pub deadline: Instant,
}

impl Line {
    /// A session under a name of its own, of which no cloud knows yet.
    ///
    /// # Errors
    /// [`EdgeError::Randomness`].
    pub fn new(uplink: Arc<Uplink>) -> Result<Self, EdgeError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(EdgeError::Randomness)?;
        Ok(Self {
            uplink,
            session: SessionId::new(id),
            trail: Trail::default(),
            used: BTreeSet::new(),
            traffic: Arc::default(),
        })
    }

    /// A new answer: nobody is excluded any more, and the traffic counts from zero.
    pub(crate) fn begin_answer(&mut self) {
        self.trail = Trail { last: self.trail.last, ..Trail::default() };
        self.traffic = Arc::default();
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Sends an attempt out. What comes of it, and be it that there is nobody to ask, arrives as
    /// signals; dropping the attempt resets its stream.
    pub fn send(&mut self, order: CallOrder, ask: Ask) -> OpenAttempt {
        let (signals, inbox) = mpsc::channel(limits::SIGNALS);
        let attempt = order.attempt;
        if order.opens_call {
            self.trail.begin_call();
        }
        let Some((endpoint, wait)) = self.choose(order.route, ask.deadline) else {
            // The channel is new and has room.
            drop(signals.try_send(Signal::LinkDown));
            return OpenAttempt {
                attempt,
                deadline: ask.deadline,
                inbox,
                endpoint: None,
                task: None,
                heard_token: false,
            };
        };
        let deadline = ask.deadline;
        let outgoing = Outgoing {
            passage: endpoint.pass(),
            endpoint: Arc::clone(&endpoint),
            uplink: Arc::clone(&self.uplink),
            traffic: Arc::clone(&self.traffic),
            session: self.session,
            order,
            ask,
            wait,
        };
        let task = tokio::spawn(outgoing.run(signals)).abort_handle();
        let endpoint = Some(endpoint);
        OpenAttempt { attempt, deadline, inbox, endpoint, task: Some(task), heard_token: false }
    }

    fn choose(&mut self, route: Route, deadline: Instant) -> Option<(Arc<Endpoint>, Duration)> {
        let now = Instant::now();
        let endpoints = &self.uplink.endpoints;
        let standings: Vec<_> = endpoints.iter().map(|endpoint| endpoint.standing(now)).collect();
        let choice = self.trail.choose(route, &standings)?;
        if now + choice.wait >= deadline {
            return None;
        }
        self.used.insert(choice.index);
        Some((Arc::clone(endpoints.get(choice.index)?), choice.wait))
    }

    /// Tells the clouds of this conversation that it is over. A courtesy: they forget by
    /// themselves, so whatever fails is let go.
    pub async fn forget(&mut self) {
        let farewell = async {
            for index in std::mem::take(&mut self.used) {
                let endpoint = self.uplink.endpoints.get(index);
                if let Some(connection) = endpoint.and_then(|endpoint| endpoint.open_connection()) {
                    let request = v1::ForgetRequest::from(self.session);
                    drop(connection.client().forget(request).await);
                }
            }
        };
        drop(timeout(limits::FORGET, farewell).await);
    }
}

/// An attempt under way.
#[derive(Debug)]
pub struct OpenAttempt {
    attempt: Attempt,
    deadline: Instant,
    inbox: mpsc::Receiver<Signal>,
    endpoint: Option<Arc<Endpoint>>,
    task: Option<AbortHandle>,
    heard_token: bool,
}

impl OpenAttempt {
    pub(crate) fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// End of the budget, the grace not counted.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The next signal; `None` after the last.
    pub async fn signal(&mut self) -> Option<Signal> {
        let signal = self.inbox.recv().await;
        self.heard_token |= matches!(signal, Some(Signal::Cloud(CallEvent::Token(_))));
        signal
    }

    /// The call's or warm sync's time is over. A cloud that said nothing worth the wait has failed.
    pub fn time_up(&self) {
        match &self.endpoint {
            Some(endpoint) if !self.heard_token => {
                let reason = "no token within the time of the call";
                endpoint.tell("the cloud did not answer", &reason);
                endpoint.failed();
            }
            _ => {}
        }
    }
}

impl Drop for OpenAttempt {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// How an attempt ended, for the breaker and for the machine.
#[derive(Debug, PartialEq)]
enum End {
    /// With a last word of the cloud's.
    Whole(CallEvent),
    /// Without one, as an attempt may that is made again.
    Cut,
    /// Without one, as it will each time.
    LinkDown,
    /// Given up on this side: it says nothing about the cloud.
    Abandoned,
}

/// An attempt on its way, in a task of its own.
struct Outgoing {
    passage: Passage,
    endpoint: Arc<Endpoint>,
    uplink: Arc<Uplink>,
    traffic: Arc<Traffic>,
    session: SessionId,
    order: CallOrder,
    ask: Ask,
    wait: Duration,
}

impl Outgoing {
    async fn run(self, signals: mpsc::Sender<Signal>) {
        let end = self.attempt(&signals).await;
        let signal = match end {
            End::Whole(event) => {
                self.passage.succeeded();
                Signal::Cloud(event)
            }
            End::Cut => {
                self.passage.failed();
                Signal::Cut
            }
            End::LinkDown => {
                self.passage.failed();
                Signal::LinkDown
            }
            // The passage stays undecided.
            End::Abandoned => Signal::LinkDown,
        };
        // A session that listens no more has abandoned the attempt.
        drop(signals.send(signal).await);
    }

    async fn attempt(&self, signals: &mpsc::Sender<Signal>) -> End {
        sleep(self.wait).await;
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => {
                self.endpoint.tell(UNREACHABLE, &error);
                return end_of_connect(&error);
            }
        };
        let description = connection.description();
        if description.protocol_version != PROTOCOL_VERSION {
            let theirs = description.protocol_version;
            let reason = format!("version {theirs} there, {PROTOCOL_VERSION} here: update one");
            self.endpoint.tell("the cloud speaks another protocol", &reason);
            return End::LinkDown;
        }
        if description.fingerprint != self.uplink.vocabulary.fingerprint {
            let ours = self.uplink.vocabulary.fingerprint;
            let reason =
                format!("{} there, {ours} here: use models of one family", description.fingerprint);
            self.endpoint.tell("the cloud's vocabulary is another one", &reason);
            return End::Whole(CallEvent::Refused(Refusal::VocabularyMismatch));
        }
        if signals.send(Signal::Described(description.clone())).await.is_err() {
            return End::Abandoned;
        }
        self.call(&connection, &description, signals).await
    }

    async fn connect(&self) -> Result<Arc<Connection>, ConnectError> {
        let connection = self.endpoint.connection(&self.traffic).await?;
        if self.order.route == Route::DescribeAgain {
            let again = connection.describe_again(&self.traffic);
            let silent = |_| Err(ConnectError::Deadline(as_ms(self.uplink.idle)));
            timeout(self.uplink.idle, again).await.unwrap_or_else(silent)?;
        }
        Ok(connection)
    }

    async fn call(
        &self,
        connection: &Connection,
        description: &Description,
        signals: &mpsc::Sender<Signal>,
    ) -> End {
        let left = self.ask.deadline.saturating_duration_since(Instant::now());
        let budget_ms = as_ms(left);
        if budget_ms == 0 {
            return End::Abandoned;
        }
        let request = v1::CallRequest::from(self.request(description, budget_ms));
        let encoded_bytes = prost::Message::encoded_len(&request);
        let limit = description.limits.message_bytes_max;
        if encoded_bytes > limit as usize {
            let refusal =
                Refusal::LimitExceeded { field: LimitField::MessageBytes, limit: limit.into() };
            return End::Whole(CallEvent::Refused(refusal));
        }
        self.traffic.sent(&request);
        self.traffic.calls.fetch_add(1, Ordering::Relaxed);
        let mut request = tonic::Request::new(request);
        request.set_timeout(left + self.uplink.grace);
        let mut client = connection.client();
        match timeout(self.uplink.idle, client.call(request)).await {
            Ok(Ok(stream)) => self.listen(stream.into_inner(), signals).await,
            Ok(Err(status)) => self.broken(&status),
            Err(_) => self.silent(),
        }
    }

    fn request(&self, description: &Description, budget_ms: u32) -> CallRequest {
        let order = &self.order;
        let limits = &description.limits;
        // The order was given before this cloud was described. The machine hears of the limit by
        // the signal before, and cuts what is left of its call by the same rule.
        let max_tokens = order.max_tokens.min(limits.call_tokens_max);
        let mut draft = self.ask.draft.clone();
        draft.truncate(max_tokens.min(limits.draft_tokens_max) as usize);
        CallRequest {
            session: self.session,
            attempt: order.attempt,
            fingerprint: self.uplink.vocabulary.fingerprint,
            model: description.model.clone(),
            base_tokens: order.base_tokens,
            base_hash: order.base_hash,
            delta: order.delta.clone(),
            max_tokens,
            sampling: self.ask.sampling,
            seed: self.ask.seed,
            draft,
            budget_ms,
        }
    }

    async fn listen(
        &self,
        mut stream: Streaming<v1::CallEvent>,
        signals: &mpsc::Sender<Signal>,
    ) -> End {
        // Between its admission and its first token a call may queue, and is silent then: the
        // timer of the whole call ends that, not the idle limit.
        let mut is_queued = false;
        loop {
            let next = stream.message();
            let heard =
                if is_queued { Ok(next.await) } else { timeout(self.uplink.idle, next).await };
            let message = match heard {
                Ok(Ok(Some(message))) => message,
                // An end without a last word.
                Ok(Ok(None)) => return End::Cut,
                Ok(Err(status)) => return self.broken(&status),
                Err(_) => return self.silent(),
            };
            self.traffic.received(&message);
            let event = match CallEvent::try_from(message) {
                Ok(event) => event,
                Err(error) => {
                    self.endpoint.tell("the cloud sent nonsense", &error);
                    return End::LinkDown;
                }
            };
            match event {
                CallEvent::Finished(_) | CallEvent::Refused(_) => return End::Whole(event),
                CallEvent::Token(token) if token.id as usize >= self.uplink.vocabulary.tokens => {
                    self.endpoint.tell("the cloud sent an id that the SLM lacks", &token.id);
                    return End::LinkDown;
                }
                CallEvent::Accepted(_) | CallEvent::Token(_) => {
                    is_queued = matches!(event, CallEvent::Accepted(_));
                    if signals.send(Signal::Cloud(event)).await.is_err() {
                        return End::Abandoned;
                    }
                }
            }
        }
    }

    fn broken(&self, status: &Status) -> End {
        self.endpoint.tell("a call failed", &root(status));
        end_of_status(status)
    }

    fn silent(&self) -> End {
        self.endpoint
            .tell("the cloud fell silent", &format_args!("for {} ms", as_ms(self.uplink.idle)));
        End::Cut
    }
}

/// UNAVAILABLE, INTERNAL and whatever broke on the way are a cut stream; other statuses are the
/// cloud's own word that asking again cannot mend.
fn end_of_status(status: &Status) -> End {
    // A status that was made here, from a transport error, has that as its source.
    let broke_on_the_way = std::error::Error::source(status).is_some();
    match status.code() {
        Code::Unavailable | Code::Internal => End::Cut,
        _ if broke_on_the_way => End::Cut,
        _ => End::LinkDown,
    }
}

fn end_of_connect(error: &ConnectError) -> End {
    match error {
        ConnectError::Describe(status) => end_of_status(status),
        ConnectError::Malformed(_) => End::LinkDown,
        ConnectError::Resolve(..)
        | ConnectError::Tcp(_)
        | ConnectError::Tls(_)
        | ConnectError::Http2(_)
        | ConnectError::Deadline(_) => End::Cut,
    }
}

fn as_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Which models wrote an answer: more than one is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelTrail {
    /// The model of the newest connection.
    talking: Option<ModelId>,
    /// The model of the first token.
    first: Option<ModelId>,
    has_changed: bool,
}

impl ModelTrail {
    pub(crate) fn described(&mut self, model: ModelId) {
        self.talking = Some(model);
    }

    pub(crate) fn wrote(&mut self) {
        match &self.first {
            None => self.first.clone_from(&self.talking),
            first => self.has_changed |= *first != self.talking,
        }
    }

    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_table() {
        for code in 1..=16 {
            let code = Code::from(code);
            let expected = match code {
                Code::Unavailable | Code::Internal => End::Cut,
                _ => End::LinkDown,
            };
            assert_eq!(end_of_status(&Status::new(code, "")), expected, "{code:?}");
        }
        let reset = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert_eq!(reset.code(), Code::Unknown);
        assert_eq!(end_of_status(&reset), End::Cut, "a broken transport");
    }

    #[test]
    fn connect_table() {
        let io = || std::io::Error::other("x");
        let denied = ConnectError::Describe(Box::new(Status::permission_denied("")));
        for (error, expected) in [
            (ConnectError::Resolve("a".into(), io()), End::Cut),
            (ConnectError::Tcp(io()), End::Cut),
            (ConnectError::Tls(io()), End::Cut),
            (ConnectError::Deadline(3), End::Cut),
            (ConnectError::Malformed("x".into()), End::LinkDown),
            (denied, End::LinkDown),
        ] {
            assert_eq!(end_of_connect(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_second_model_is_noticed_only_once_it_writes() {
        let [a, b] = [1, 2].map(|hash| ModelId::new("m", [hash; 8]));
        let mut trail = ModelTrail::default();
        trail.described(a.clone());
        trail.wrote();
        trail.described(b);
        assert!(!trail.has_changed());
        trail.described(a.clone());
        trail.wrote();
        assert!(!trail.has_changed());
        trail.described(ModelId::new("m", [3; 8]));
        trail.wrote();
        assert!(trail.has_changed());
    }
}
