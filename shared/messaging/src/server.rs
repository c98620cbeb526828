//! The serving side: a NATS service (ADR-32) whose endpoints are the operations of the contract.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;
use contract::problem::Outcome;
use contract::{
    Answer, Context, Decoded, Endpoint, IdempotentRequest, KeyOrigin, Problem, ProblemType, Repeat, Timestamp,
};
use failpoint::crash_point;
use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt};
use identity::Verifier;
use opentelemetry::trace::FutureExt;
use telemetry::health::Health;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::conditional::conditional;
use super::discovery::Instance;
use super::drain::DrainingSubscription;
use super::incoming::{self, IncomingRequest};
use super::provision::assert_commands_uncovered;
use super::reply::OutgoingReply;
use super::{Connection, HEADER_ALLOWANCE, ProvisionError};
use crate::idempotency::{self, Idempotency};

/// Requests one worker works on at once; the next one is refused at once.
const MAX_IN_FLIGHT: usize = 512;
/// How long requests under way may take to end once the worker is asked to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a write may go on after its deadline, when its caller has stopped waiting.
const OVERTIME: Duration = Duration::from_secs(5);
/// How long the broker may take to put the service's subscriptions in force.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// Every reply subject begins so: no message can make a worker publish anywhere else. It is why the library's
/// service API is not used, which answers `$SRV` questions to whatever subject they name (ADR 9).
const INBOX_PREFIX: &str = "_INBOX";

/// Why a worker stopped serving, other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The broker did not accept the subscriptions.
    #[error("cannot register the service: {0}")]
    Register(#[source] async_nats::Error),
    /// JetStream would answer in the worker's place.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The broker carries messages that are too small for the largest request.
    #[error(
        "the broker's max_payload is {has} bytes and must be at least {needs}; set it in the broker's configuration"
    )]
    MaxPayload {
        /// What it is.
        has: usize,
        /// What the largest request needs.
        needs: usize,
    },
    /// A subscription ended unasked: the connection is dead without saying so.
    #[error("the subscription of {0} ended; this process must be restarted")]
    EndpointEnded(&'static str),
}

/// Serves one handler's endpoints.
pub struct Server<H> {
    connection: Connection,
    /// The first token of this process's inboxes.
    own_inbox: String,
    service: &'static str,
    instance: Arc<Instance>,
    work: Arc<Work<H>>,
}

/// What every request needs.
struct Work<H> {
    worker: &'static str,
    endpoints: Vec<Endpoint<H>>,
    handler: Arc<H>,
    verifier: Arc<Verifier>,
    idempotency: Option<Arc<Idempotency>>,
    under_way: TaskTracker,
}

/// What a subscription is for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Endpoint(usize),
    Discovery,
}

type Incoming = SelectAll<std::pin::Pin<Box<dyn Stream<Item = (Source, Option<Message>)> + Send>>>;

impl<H: Send + Sync + 'static> Server<H> {
    /// A server of the service whose `endpoints` these are, in the process `worker`. It trusts `verifier`'s keys,
    /// and shares the runs of keyed writes with the other workers through `idempotency`. Who asks whether it is
    /// there learns its `health`.
    pub fn new(
        connection: Connection,
        worker: &'static str,
        endpoints: Vec<Endpoint<H>>,
        handler: Arc<H>,
        verifier: Arc<Verifier>,
        idempotency: Option<Arc<Idempotency>>,
        health: Health,
    ) -> Self {
        let operations = endpoints.iter().map(|endpoint| endpoint.description.clone());
        let service = endpoints.first().map_or("", |endpoint| endpoint.description.service());
        let instance = Arc::new(Instance::new(service, operations, health));
        let under_way = TaskTracker::new();
        let work = Arc::new(Work { worker, endpoints, handler, verifier, idempotency, under_way });
        let own_inbox = connection.client().new_inbox().split('.').next().unwrap_or_default().to_owned();
        Self { connection, own_inbox, service, instance, work }
    }

    /// Subscribes, calls `ready` once that is in force, and serves until `shutdown`; then finishes what is
    /// under way and returns once every reply is sent.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(self, ready: impl FnOnce(), shutdown: CancellationToken) -> Result<(), ServeError> {
        assert_commands_uncovered(&self.connection, self.service).await?;
        self.assert_requests_fit()?;
        let unsubscribe = CancellationToken::new();
        let mut incoming = self.subscribe(&unsubscribe).await.map_err(ServeError::Register)?;
        let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let mut in_force = std::pin::pin!(self.await_subscriptions());
        let mut ready = Some(ready);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                reached = &mut in_force, if ready.is_some() => {
                    reached?;
                    if let Some(ready) = ready.take() {
                        ready();
                    }
                }
                next = incoming.next() => match next {
                    Some((source, Some(message))) => self.take_up(source, message, &room).await,
                    Some((Source::Endpoint(index), None)) => {
                        return Err(ServeError::EndpointEnded(self.work.endpoints[index].description.subject));
                    }
                    Some((Source::Discovery, None)) | None => {
                        return Err(ServeError::EndpointEnded(self.service));
                    }
                },
            }
        }
        unsubscribe.cancel();
        self.drain(incoming, &room).await;
        Ok(())
    }

    /// Refuses a broker that cannot carry the largest request. Pages shrink to what it carries.
    fn assert_requests_fit(&self) -> Result<(), ServeError> {
        let largest = self.work.endpoints.iter().map(|endpoint| endpoint.description.max_body).max();
        let needs = largest.unwrap_or(0) + HEADER_ALLOWANCE;
        let has = self.connection.client().server_info().max_payload;
        if has < needs { Err(ServeError::MaxPayload { has, needs }) } else { Ok(()) }
    }

    /// Subscribes to every endpoint's subject, in the service's queue group, and to questions about the
    /// service. The streams end after `unsubscribe`, once what has arrived is taken.
    async fn subscribe(&self, unsubscribe: &CancellationToken) -> Result<Incoming, async_nats::Error> {
        let client = self.connection.client();
        let mut incoming = Incoming::new();
        for (index, endpoint) in self.work.endpoints.iter().enumerate() {
            let (subject, group) = (endpoint.description.subject, self.service.to_owned());
            let subscriber = client.queue_subscribe(subject, group).await?;
            incoming.push(messages(
                Source::Endpoint(index),
                DrainingSubscription::new(subscriber, self.connection.losses(), unsubscribe.clone()),
            ));
        }
        for subject in self.instance.subjects() {
            let subscriber = client.subscribe(subject).await?;
            incoming.push(messages(
                Source::Discovery,
                DrainingSubscription::new(subscriber, self.connection.losses(), unsubscribe.clone()),
            ));
        }
        Ok(incoming)
    }

    /// A round trip through the broker to this very instance: once it is back, every subscription
    /// made before it is in force. `flush` would only say that the bytes left.
    async fn await_subscriptions(&self) -> Result<(), ServeError> {
        #[expect(clippy::disallowed_methods, reason = "to itself, and with a limit of its own")]
        let answer = self.connection.client().request(self.instance.own_subject("PING"), Bytes::new());
        match tokio::time::timeout(REGISTER_TIMEOUT, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ServeError::Register(error.into())),
            Err(error) => Err(ServeError::Register(error.into())),
        }
    }

    /// Where an answer may be sent: an inbox, and none of our own, which no caller has reason to name. The exception is
    /// how an instance learns that its subscriptions are in force.
    fn judge_inbox(&self, reply: Option<&Subject>, is_ping: bool) -> Result<Subject, &'static str> {
        let reply = reply.ok_or("it has no reply subject: use request, not publish")?;
        if !reply.starts_with(INBOX_PREFIX) {
            return Err("its reply subject does not begin with _INBOX: choose such an inbox prefix");
        }
        if !is_ping && reply.split('.').next() == Some(self.own_inbox.as_str()) {
            return Err("its reply subject is an inbox of this service");
        }
        Ok(reply.clone())
    }

    async fn take_up(&self, source: Source, message: Message, room: &Arc<Semaphore>) {
        let is_ping = matches!(source, Source::Discovery) && message.subject.starts_with("$SRV.PING");
        let inbox = match self.judge_inbox(message.reply.as_ref(), is_ping) {
            Ok(inbox) => inbox,
            Err(why) => {
                tracing::warn!(subject = %message.subject, why, "dropped a message that cannot be answered");
                return;
            }
        };
        match source {
            Source::Endpoint(index) => self.start(index, message, inbox, room),
            Source::Discovery => {
                if let Some(answer) = self.instance.answer(&message.subject)
                    && let Err(error) = self.connection.client().publish(inbox, answer.into()).await
                {
                    tracing::warn!(%error, "could not describe the service");
                }
            }
        }
    }

    /// Starts work on one message, or answers at once that there is no room for it.
    fn start(&self, index: usize, message: Message, inbox: Subject, room: &Arc<Semaphore>) {
        let received = Instant::now();
        let (client, instance) = (self.connection.client().clone(), Arc::clone(&self.instance));
        let (work, permit) = (Arc::clone(&self.work), Arc::clone(room).try_acquire_owned());
        let answered = async move {
            let operation = &work.endpoints[index].description;
            let max_payload = client.server_info().max_payload;
            let (incoming, span) =
                IncomingRequest::read(&message, operation, work.worker, received, Timestamp::now());
            let answer = async {
                let result = match &permit {
                    Ok(_) => work.process(index, &incoming, &message, max_payload).await,
                    Err(_) => {
                        Err(Problem::new(ProblemType::Overloaded, "the worker has no room at the moment"))
                    }
                };
                let reply = OutgoingReply::new(&incoming.ids, result, max_payload);
                let failure = (reply.status >= 400).then(|| reply.status.to_string());
                let took = received.elapsed();
                instance.count(index, took, failure);
                incoming.account(operation.subject, &reply, took, &span);
                reply
            };
            let reply = answer.instrument(span.clone()).await;
            // It ends before the reply is on its way: to who looks at the trace, the work lies within the request that
            // waits for it. A write in overtime keeps it until its end.
            drop(span);
            crash_point!("before-reply");
            if let Err(error) = client.publish_with_headers(inbox, reply.headers, reply.body).await {
                tracing::warn!(correlation_id = %incoming.ids.correlation_id, %error, "could not send a reply");
            }
            drop(permit);
        };
        self.work.under_way.spawn(answered.with_current_context());
    }

    /// Finishes what has arrived and sends every reply.
    async fn drain(&self, mut incoming: Incoming, room: &Arc<Semaphore>) {
        let under_way = &self.work.under_way;
        let finish = async {
            while self.connection.is_connected() {
                match incoming.next().await {
                    Some((source, Some(message))) => self.take_up(source, message, room).await,
                    Some((_, None)) => {}
                    None => break,
                }
            }
            under_way.close();
            under_way.wait().await;
        };
        if tokio::time::timeout(DRAIN_TIMEOUT, finish).await.is_err() {
            tracing::warn!(requests = under_way.len(), "stopped before every request was answered");
        }
    }
}

/// A subscription's messages, and `None` when it has ended.
fn messages(
    source: Source,
    subscription: DrainingSubscription,
) -> std::pin::Pin<Box<dyn Stream<Item = (Source, Option<Message>)> + Send>> {
    Box::pin(stream::unfold(Some(subscription), move |subscription| async move {
        let mut subscription = subscription?;
        let message = subscription.next().await;
        let rest = message.is_some().then_some(subscription);
        Some(((source, message), rest))
    }))
}

impl<H: Send + Sync + 'static> Work<H> {
    /// Judges and decodes one request, and runs it within its deadline. A panic becomes a 500.
    async fn process(
        self: &Arc<Self>,
        index: usize,
        incoming: &IncomingRequest,
        message: &Message,
        max_payload: usize,
    ) -> Result<Answer, Problem> {
        let (endpoint, headers) = (&self.endpoints[index], message.headers.as_ref());
        let operation = &endpoint.description;
        let max_reply = max_payload.saturating_sub(HEADER_ALLOWANCE);
        let mut cx = incoming.context(operation, headers, &self.verifier, max_reply)?;
        let key = incoming::key(headers)?;
        let (deadline, conditions) = (cx.deadline, (cx.if_match.clone(), cx.if_none_match.clone()));
        if message.payload.len() > operation.max_body {
            return Err(Problem::too_large(operation.max_body));
        }
        let decoded = endpoint.decode(&message.payload)?;
        if let (true, Some((key, origin))) = (operation.repeat.takes_key(), key) {
            let (caller, subject) = (cx.principal.as_ref(), operation.subject);
            cx.write = Some(IdempotentRequest::new(caller, &key, origin, subject, &decoded.body));
        }
        // A task of its own: a caller that stops waiting does not stop a write between commit and reply.
        let run = Arc::clone(self).run(index, decoded, Arc::new(cx));
        let outcome = operation.repeat.outcome_unanswered();
        // Longer than its lease it has no use, and a connection that is dead may never say so.
        let run = tokio::time::timeout_at(deadline + OVERTIME, run);
        let run = async move { run.await.unwrap_or_else(|_| Err(too_late(outcome))) };
        let mut running = self.under_way.spawn(run.in_current_span());
        let ended = tokio::time::timeout_at(deadline, &mut running).await;
        if ended.is_err() && operation.repeat == Repeat::Safe {
            // A read whose caller has given up is of no use.
            running.abort();
        }
        match ended {
            Ok(Ok(Ok(answer))) => conditional(answer, operation, &conditions),
            Ok(Ok(Err(problem))) => Err(problem),
            Ok(Err(_)) => Err(Problem::internal(&"the handler panicked").with_outcome(outcome)),
            Err(_) => Err(too_late(outcome)),
        }
    }

    /// Runs a request; one that a client has named, once only.
    async fn run(
        self: Arc<Self>,
        index: usize,
        decoded: Decoded<H>,
        cx: Arc<Context>,
    ) -> Result<Answer, Problem> {
        let endpoint = &self.endpoints[index];
        let run = decoded.run(Arc::clone(&self.handler), Arc::clone(&cx));
        match (&cx.write, &self.idempotency) {
            // Only the gateway knows a key of its own: the database alone guards it.
            (Some(write), Some(idempotency)) if write.origin == KeyOrigin::Client => {
                let find_saved = || endpoint.find_saved(Arc::clone(&self.handler), write.clone());
                let longest = endpoint.description.deadline;
                let result = idempotency.once(&cx, write, longest, run, find_saved, &self.under_way).await;
                idempotency::count_ending(&result);
                result
            }
            _ => run.await,
        }
    }
}

fn too_late(outcome: Outcome) -> Problem {
    Problem::new(ProblemType::DeadlineExceeded, "the work did not end in time").with_outcome(outcome)
}
