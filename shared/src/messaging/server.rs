//! The serving side: a NATS service (ADR-32) whose endpoints are the operations of the contract.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use super::discovery::Instance;
use super::leaving::Leaving;
use super::provision::assert_commands_uncovered;
use super::{Connection, HEADER_ALLOWANCE, ProvisionError, headers, measurements};
use crate::contract::failure::{Outcome, PROBLEM_JSON, ProblemBody};
use crate::contract::{
    Answer, ClientNetwork, Context, CorrelationId, Decoded, Description, Endpoint, IdempotencyKey, KeyOrigin,
    KeyedWrite, Precondition, Problem, ProblemType, Repeat, RequestIds, Timestamp,
};
use crate::crash_point;
use crate::health::Health;
use crate::idempotency::{self, Idempotency};
use crate::identity::Verifier;
use crate::telemetry::span;

/// Requests one worker works on at once; the next one is told at once that there is no room.
const MAX_IN_FLIGHT: usize = 512;
/// How long requests under way may take to end once the worker is asked to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a write may go on after its deadline, for which nobody waits any more.
const OVERTIME: Duration = Duration::from_secs(5);
/// How long the broker may take to put the service's subscriptions in force.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// A sender whose clock is ahead by more than this cannot tell us its deadline.
const MAX_CLOCK_SKEW_MS: i64 = 60_000;
/// Every reply subject begins so: nobody can make a worker publish anywhere else. It is why the library's
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
    /// A subscription ended although nobody asked: the connection is dead without saying so.
    #[error("the subscription of {0} ended; this process must be restarted")]
    EndpointEnded(&'static str),
}

/// Serves one handler's endpoints.
pub struct Server<H> {
    connection: Connection,
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
    /// there is told of its `health`.
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
        Self { connection, service, instance, work }
    }

    /// Subscribes, calls `ready` once that is in force, and serves until `shutdown`; then finishes what is
    /// under way and returns once every reply is sent.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(self, ready: impl FnOnce(), shutdown: CancellationToken) -> Result<(), ServeError> {
        assert_commands_uncovered(&self.connection, self.service).await?;
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
                Leaving::new(subscriber, self.connection.losses(), unsubscribe.clone()),
            ));
        }
        for subject in self.instance.subjects() {
            let subscriber = client.subscribe(subject).await?;
            incoming.push(messages(
                Source::Discovery,
                Leaving::new(subscriber, self.connection.losses(), unsubscribe.clone()),
            ));
        }
        Ok(incoming)
    }

    /// A round trip through the broker to this very instance: once it is back, every subscription
    /// made before it is in force. `flush` would only say that the bytes left.
    async fn await_subscriptions(&self) -> Result<(), ServeError> {
        let answer = self.connection.client().request(self.instance.own_subject("PING"), Bytes::new());
        match tokio::time::timeout(REGISTER_TIMEOUT, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ServeError::Register(error.into())),
            Err(error) => Err(ServeError::Register(error.into())),
        }
    }

    async fn take_up(&self, source: Source, message: Message, room: &Arc<Semaphore>) {
        let inbox = message.reply.clone().filter(|reply| reply.starts_with(INBOX_PREFIX));
        let Some(inbox) = inbox else {
            tracing::warn!(subject = %message.subject, "dropped a message that has no inbox to answer to");
            return;
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
            let subject = operation.subject;
            let (arrival, span) = Arrival::read(&message, operation, work.worker, received, Timestamp::now());
            let ids = arrival.ids.clone();
            let answer = async {
                let result = match &permit {
                    Ok(_) => work.process(index, &arrival, &message).await,
                    Err(_) => {
                        Err(Problem::new(ProblemType::Overloaded, "the worker has no room at the moment"))
                    }
                };
                let ending = Ending::of(&result);
                let (reply, status) = arrival.reply(result, client.server_info().max_payload);
                let elapsed = received.elapsed();
                let failure = (status >= 400).then(|| status.to_string());
                instance.count(index, elapsed, failure);
                arrival.account(subject, status, elapsed, &ending, &span);
                reply
            };
            // The span ends before the reply is on its way: to who looks at the trace, the work lies within the
            // request that waits for it.
            let reply = answer.instrument(span.clone()).await;
            drop(span);
            crash_point!("before-reply");
            if let Err(error) = client.publish_with_headers(inbox, reply.headers, reply.body).await {
                tracing::warn!(correlation_id = %ids.correlation_id, %error, "could not send a reply");
            }
            drop(permit);
        };
        self.work.under_way.spawn(answered.in_current_span());
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
    subscription: Leaving,
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
        arrival: &Arrival,
        message: &Message,
    ) -> Result<Answer, Problem> {
        let (endpoint, headers) = (&self.endpoints[index], message.headers.as_ref());
        let operation = &endpoint.description;
        let mut cx = arrival.context(operation, headers, &self.verifier)?;
        let key = key(headers)?;
        let (deadline, if_none_match) = (cx.deadline, cx.if_none_match.clone());
        if message.payload.len() > operation.max_body {
            return Err(Problem::too_large(operation.max_body));
        }
        let decoded = endpoint.decode(&message.payload)?;
        if let (Repeat::WithKey, Some((key, origin)), Some(principal)) =
            (operation.repeat, key, &cx.principal)
        {
            cx.write = Some(KeyedWrite::new(principal, &key, origin, operation.subject, &decoded.body));
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
            // A read whose caller has given up is of no use to anybody.
            running.abort();
        }
        match ended {
            Ok(Ok(Ok(answer))) => Ok(unless_already_held(answer, operation, if_none_match.as_ref())),
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
            // A gateway's own key is known to nobody else: the database alone guards it.
            (Some(write), Some(idempotency)) if write.origin == KeyOrigin::Client => {
                let kept = || endpoint.kept(Arc::clone(&self.handler), write.clone());
                let longest = endpoint.description.deadline;
                let result = idempotency.once(&cx, write, longest, run, kept, &self.under_way).await;
                idempotency::count_ending(&result);
                result
            }
            _ => run.await,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a status says in one word.
fn outcome(status: u16) -> &'static str {
    match status {
        ..400 => "ok",
        400..500 => "refused",
        500.. => "failed",
    }
}

fn too_late(outcome: Outcome) -> Problem {
    Problem::new(ProblemType::DeadlineExceeded, "the work did not end in time").with_outcome(outcome)
}

/// The idempotency key of a message, and who named it.
fn key(headers: Option<&HeaderMap>) -> Result<Option<(IdempotencyKey, KeyOrigin)>, Problem> {
    let origin = match headers::single(headers, headers::IDEMPOTENCY_KEY_ORIGIN)? {
        Some("gateway") => KeyOrigin::Gateway,
        _ => KeyOrigin::Client,
    };
    match headers::single(headers, headers::IDEMPOTENCY_KEY)? {
        None => Ok(None),
        Some(value) => match IdempotencyKey::parse(value) {
            Some(key) => Ok(Some((key, origin))),
            None => Err(malformed(headers::IDEMPOTENCY_KEY)),
        },
    }
}

fn malformed(name: &str) -> Problem {
    Problem::new(ProblemType::MalformedRequest, format!("the header {name} is malformed"))
}

/// 304 without a body for a reader who holds this version.
fn unless_already_held(answer: Answer, operation: &Description, held: Option<&Precondition>) -> Answer {
    match (held, answer.etag) {
        (Some(held), Some(etag)) if operation.repeat == Repeat::Safe && held.matches_weakly(etag) => {
            Answer { status: 304, body: Bytes::new(), ..answer }
        }
        _ => answer,
    }
}

/// What a message brings along, read before anything can fail.
struct Arrival {
    ids: RequestIds,
    attempt: u32,
    /// Since it was sent, by the sender's clock and ours.
    waited: Option<Duration>,
    received: Instant,
    now: Timestamp,
}

/// What a result says about itself in spans, metrics and lines.
struct Ending {
    problem: Option<&'static str>,
    first: Option<RequestIds>,
}

impl Ending {
    fn of(result: &Result<Answer, Problem>) -> Self {
        match result {
            Ok(answer) => Self { problem: None, first: answer.first.clone() },
            Err(problem) => Self { problem: Some(problem.kind.name()), first: None },
        }
    }
}

struct OutgoingReply {
    headers: HeaderMap,
    body: Bytes,
}

impl Arrival {
    fn read(
        message: &Message,
        operation: &Description,
        worker: &'static str,
        received: Instant,
        now: Timestamp,
    ) -> (Self, Span) {
        let map = message.headers.as_ref();
        let value = |name| headers::single(map, name).ok().flatten();
        let correlation_id =
            value(headers::CORRELATION_ID).and_then(CorrelationId::parse).unwrap_or_else(CorrelationId::mint);
        let (size, sender) = (message.payload.len(), headers::Incoming(map));
        let (subject, group) = (operation.subject, operation.service());
        let span = span::process(worker, &correlation_id, &sender, subject, group, size);
        let number = |name| value(name).and_then(|value| value.parse::<i64>().ok());
        let sent = number(headers::DEADLINE).zip(number(headers::BUDGET));
        let waited =
            sent.map(|(deadline, budget)| now.unix_millis().saturating_sub(deadline.saturating_sub(budget)));
        let arrival = Self {
            ids: RequestIds { correlation_id, trace: span::ids(&span) },
            attempt: value(headers::ATTEMPT).and_then(|value| value.parse().ok()).unwrap_or(1),
            waited: waited.map(|waited| Duration::from_millis(waited.try_into().unwrap_or(0))),
            received,
            now,
        };
        (arrival, span)
    }

    /// Says in the span, the metrics and the one line per message how it was answered.
    fn account(&self, subject: &'static str, status: u16, took: Duration, ending: &Ending, span: &Span) {
        span::reply(span, status, ending.problem);
        if let Some(first) = &ending.first {
            span::replayed(span, first);
        }
        let failure = (status >= 500).then(|| ending.problem.unwrap_or("failed"));
        measurements::processed(subject, took, self.waited, outcome(status), failure);
        tracing::info!(
            subject,
            status,
            outcome = outcome(status),
            problem = ending.problem,
            duration_us = micros(took),
            attempt = self.attempt,
            replayed = ending.first.is_some(),
            original_correlation_id = ending.first.as_ref().map(|first| first.correlation_id.as_str()),
            queue_wait_ms = self.waited.map(|waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)),
            "{subject}"
        );
    }

    /// Everything that is decided before the body is read: deadline, caller, access, header syntax.
    fn context(
        &self,
        operation: &Description,
        map: Option<&HeaderMap>,
        verifier: &Verifier,
    ) -> Result<Context, Problem> {
        let remaining = self.remaining(map, operation.deadline)?;
        if remaining.is_zero() {
            return Err(Problem::new(
                ProblemType::DeadlineExceeded,
                "the request arrived after its deadline",
            ));
        }
        let precondition = |name| match headers::single(map, name)? {
            Some(value) => Precondition::parse(value).map(Some).ok_or_else(|| malformed(name)),
            None => Ok(None),
        };
        let authorization = headers::single(map, headers::AUTHORIZATION)?;
        let (access, repeat) = (operation.access, operation.repeat);
        let principal = verifier.authorize(access, repeat, authorization, self.now, self.received)?;
        Ok(Context {
            ids: self.ids.clone(),
            now: self.now,
            deadline: self.received + remaining,
            write: None,
            if_match: precondition(headers::IF_MATCH)?,
            if_none_match: precondition(headers::IF_NONE_MATCH)?,
            principal,
            client_network: headers::single(map, headers::CLIENT_NETWORK)?.and_then(ClientNetwork::parse),
        })
    }

    /// The time the caller still waits: the least of the operation's limit, the budget, and what is
    /// left until the absolute deadline. A sender's clock that runs ahead is not believed; one that
    /// seems to run behind is, because a message that waited somewhere looks the same.
    fn remaining(&self, map: Option<&HeaderMap>, limit: Duration) -> Result<Duration, Problem> {
        let number = |name| match headers::single(map, name)? {
            None => Ok(None),
            Some(text) => text.parse::<i64>().ok().filter(|number| *number >= 0).map(Some).ok_or_else(|| {
                Problem::new(
                    ProblemType::MalformedRequest,
                    format!("the header {name} is not a number of milliseconds"),
                )
            }),
        };
        let millis = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let mut remaining = limit;
        if let Some(budget) = number(headers::BUDGET)? {
            remaining = remaining.min(millis(budget));
        }
        if let Some(deadline) = number(headers::DEADLINE)? {
            let left = deadline.saturating_sub(self.now.unix_millis());
            if left <= limit_ms.saturating_add(MAX_CLOCK_SKEW_MS) {
                remaining = remaining.min(millis(left));
            }
        }
        Ok(remaining)
    }

    /// Turns a result into the reply's headers and body, and tells its status.
    fn reply(&self, result: Result<Answer, Problem>, max_payload: usize) -> (OutgoingReply, u16) {
        let result = match result {
            Ok(answer) if answer.body.len() + HEADER_ALLOWANCE > max_payload => Err(Problem::new(
                ProblemType::ReplyTooLarge,
                "the answer is larger than the broker carries; ask for a smaller page",
            )),
            other => other,
        };
        let mut map = HeaderMap::new();
        headers::set(&mut map, headers::CORRELATION_ID, self.ids.correlation_id.as_str());
        match result {
            Ok(answer) => {
                if answer.status < 400 {
                    headers::set(&mut map, headers::STATUS, &answer.status.to_string());
                } else {
                    set_failure(&mut map, answer.status, &summary(&answer.body));
                }
                if let Some(etag) = answer.etag {
                    headers::set(&mut map, headers::ETAG, &etag.to_string());
                }
                if let Some(location) = &answer.location {
                    headers::set(&mut map, headers::LOCATION, location);
                }
                if let Some(first) = &answer.first {
                    headers::set(&mut map, headers::REPLAYED, "true");
                    headers::set(&mut map, headers::ORIGINAL_CORRELATION_ID, first.correlation_id.as_str());
                }
                (OutgoingReply { headers: map, body: answer.body }, answer.status)
            }
            Err(problem) => {
                let status = problem.kind.status();
                set_failure(&mut map, status, &format!("{}: {}", problem.kind.title(), problem.detail));
                if problem.proves_nothing_ran() {
                    headers::set(&mut map, headers::EXECUTED, "false");
                }
                if let Some(seconds) = problem.retry_after {
                    headers::set(&mut map, headers::RETRY_AFTER, &seconds.to_string());
                }
                let body = problem.body(&self.ids).to_json();
                (OutgoingReply { headers: map, body: body.into() }, status)
            }
        }
    }
}

fn set_failure(map: &mut HeaderMap, status: u16, summary: &str) {
    headers::set(map, headers::ERROR_CODE, &status.to_string());
    headers::set(map, headers::ERROR, summary);
    headers::set(map, headers::CONTENT_TYPE, PROBLEM_JSON);
}

/// A kept refusal in one line.
fn summary(body: &[u8]) -> String {
    let problem = serde_json::from_slice::<ProblemBody>(body).ok();
    problem.map(|problem| format!("{}: {}", problem.title, problem.detail)).unwrap_or_default()
}
