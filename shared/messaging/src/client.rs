//! The calling side: one operation becomes one request message with its ids, deadline and credentials.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::subject::ToSubject;
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use contract::{
    ClientNetwork, CorrelationId, Description, IdempotencyKey, KeyOrigin, Problem, ProblemType, Repeat,
    Timestamp,
};
use serde::Deserialize;
use telemetry::span;
use tokio::time::Instant;
use tracing::Span;

use super::multiplexer::{Multiplexer, NoReply, Pending};
use super::provision::KEYS_BUCKET;
use super::{Connection, HEADER_ALLOWANCE, headers, metrics};

/// Calls operations over the broker.
#[derive(Debug, Clone)]
pub struct RequestClient {
    connection: Connection,
    replies: Arc<Multiplexer>,
}

/// What accompanies one call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Found on every log line of the request.
    pub correlation_id: CorrelationId,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The client's `Authorization` value, already verified.
    pub authorization: Option<String>,
    /// The name of the write, and who gave it.
    pub idempotency_key: Option<(IdempotencyKey, KeyOrigin)>,
    /// The client's `If-Match` value.
    pub if_match: Option<String>,
    /// The client's `If-None-Match` value.
    pub if_none_match: Option<String>,
    /// Where the client is, for operations that count attempts.
    pub client_network: Option<ClientNetwork>,
}

/// A worker's answer, good or bad.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// JSON, or problem+json from 400 on.
    pub body: Bytes,
    /// The representation's validator.
    pub etag: Option<String>,
    /// The path of a newly created resource.
    pub location: Option<String>,
    /// The cursor of the page that follows the one in the body.
    pub next_cursor: Option<String>,
    /// The name of the problem in the body.
    pub problem: Option<String>,
    /// The id of the request that was first given this answer, when that was another one.
    pub first: Option<String>,
    /// Seconds after which the same request may be sent again.
    pub retry_after: Option<u64>,
    /// Whether the worker says that it did not carry the request out.
    pub not_executed: bool,
}

impl Reply {
    /// Whether the body is a problem of this type.
    pub fn is_problem(&self, kind: ProblemType) -> bool {
        self.problem.as_deref() == Some(kind.name())
    }
}

/// Why a call got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no connection; nothing was sent.
    #[error("not connected to the broker")]
    NotConnected,
    /// No worker listens; nothing ran.
    #[error("no worker listens")]
    NoResponders,
    /// The message is larger than the broker takes; nothing was sent.
    #[error("the message is larger than the broker takes")]
    TooLarge,
    /// No answer before the deadline.
    #[error("no answer before the deadline")]
    TimedOut,
    /// The connection broke while waiting.
    #[error("the connection broke while waiting")]
    ConnectionLost,
    /// The answer lacks what every answer has.
    #[error("the answer cannot be understood")]
    MalformedReply,
}

impl CallError {
    /// The error in one word, for spans and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::NoResponders => "no_responders",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timeout",
            Self::ConnectionLost => "connection_lost",
            Self::MalformedReply => "malformed_reply",
        }
    }

    /// The problem this failure becomes, for an operation with this repeat rule.
    pub fn into_problem(self, repeat: Repeat) -> Problem {
        let after_delivery = repeat.outcome_unanswered();
        match self {
            Self::NotConnected => Problem::new(ProblemType::Unavailable, "the broker cannot be reached"),
            Self::NoResponders => {
                Problem::new(ProblemType::Unavailable, "no worker is running for this request")
            }
            Self::TooLarge => {
                Problem::new(ProblemType::PayloadTooLarge, "the request is too large to be forwarded")
            }
            Self::TimedOut => {
                Problem::new(ProblemType::DeadlineExceeded, "the worker did not answer in time")
                    .with_outcome(after_delivery)
            }
            Self::ConnectionLost => {
                Problem::new(ProblemType::ConnectionLost, "the broker was lost while the worker was working")
                    .with_outcome(after_delivery)
            }
            Self::MalformedReply => {
                Problem::new(ProblemType::MalformedReply, "the worker's answer is incomplete")
                    .with_outcome(after_delivery)
            }
        }
    }
}

impl RequestClient {
    /// Starts listening for replies.
    ///
    /// # Errors
    /// When the inbox cannot be subscribed to.
    pub async fn start(connection: Connection) -> Result<Self, async_nats::SubscribeError> {
        let replies = Arc::new(Multiplexer::start(&connection).await?);
        Ok(Self { connection, replies })
    }

    /// Resolves when this caller can never receive a reply again, which needs a new process.
    pub async fn broken(&self) {
        self.replies.ended().await;
    }

    /// Whether a call can be made now.
    pub fn is_ready(&self) -> bool {
        self.connection.is_connected() && self.replies.is_alive()
    }

    /// Calls that wait for a reply.
    pub fn in_flight(&self) -> usize {
        self.replies.waiting()
    }

    /// Sends one request, for the `attempt`th time, and waits for its reply until `call.deadline`.
    ///
    /// # Errors
    /// [`CallError`], which says whether anything can have run.
    pub async fn call(
        &self,
        operation: &Description,
        call: &Call,
        attempt: u32,
        payload: Bytes,
    ) -> Result<Reply, CallError> {
        let span = span::request(operation.subject, payload.len(), attempt);
        let mut attempt_made =
            Attempt { subject: operation.subject, span, begun: Instant::now(), ending: None };
        // The message belongs to this span. Nothing else does, so it is not entered at every poll.
        let headers =
            attempt_made.span.in_scope(|| request_headers(call, attempt, Timestamp::now(), Instant::now()));
        let exchange = async {
            let mut pending = self.hand_over(operation.subject, headers, payload, true).await?;
            Ok(pending.reply().await?)
        };
        let result = within(call.deadline, exchange).await.and_then(read_reply);
        attempt_made.ending = Some(result.as_ref().err().map(CallError::name));
        result
    }

    async fn request(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Message, CallError> {
        within(deadline, async { Ok(self.send(subject, headers, payload).await?.reply().await?) }).await
    }

    /// Hands a request over and returns what waits for its reply.
    pub(super) async fn send(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<Pending, CallError> {
        self.hand_over(subject, headers, payload, false).await
    }

    async fn hand_over(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        payload: Bytes,
        by_worker: bool,
    ) -> Result<Pending, CallError> {
        // The library would queue the message and send it after we had given up.
        if !self.is_ready() {
            return Err(CallError::NotConnected);
        }
        let client = self.connection.client();
        if payload.len() + HEADER_ALLOWANCE > client.server_info().max_payload {
            return Err(CallError::TooLarge);
        }
        let pending = if by_worker { self.replies.register_by_worker() } else { self.replies.register() };
        let inbox = pending.inbox.clone();
        match client.publish_with_reply_and_headers(subject, inbox, headers, payload).await {
            Ok(()) => Ok(pending),
            Err(_) => Err(CallError::NotConnected),
        }
    }

    /// The stream that covers command subjects, so that it answers requests in the workers' place, if one has been
    /// seen to do so in the last seconds.
    pub fn intruder(&self) -> Option<String> {
        self.replies.intruder()
    }

    /// Asks every instance of `service` to answer, and returns what the first one said.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ping(&self, service: &str, timeout: Duration) -> Result<Pong, CallError> {
        let answer = self.ask(format!("$SRV.PING.{service}"), timeout).await?;
        serde_json::from_slice(&answer).map_err(|_| CallError::MalformedReply)
    }

    /// Asks JetStream for an answer: about the bucket of public keys, which every service may ask for.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ask_jetstream(&self, timeout: Duration) -> Result<(), CallError> {
        self.ask(format!("$JS.API.STREAM.INFO.KV_{KEYS_BUCKET}"), timeout).await.map(drop)
    }

    async fn ask(&self, subject: String, timeout: Duration) -> Result<Bytes, CallError> {
        let deadline = Instant::now() + timeout;
        Ok(self.request(subject, HeaderMap::new(), Bytes::new(), deadline).await?.payload)
    }

    /// Sends itself a message and waits for it: whether this process's connection still carries anything.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn echo(&self, timeout: Duration) -> Result<(), CallError> {
        if !self.is_ready() {
            return Err(CallError::NotConnected);
        }
        let mut pending = self.replies.register_echo();
        let exchange = async {
            let sent = self.connection.client().publish(pending.inbox.clone(), Bytes::new()).await;
            sent.map_err(|_| CallError::NotConnected)?;
            pending.reply().await?;
            Ok(())
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(CallError::TimedOut))
    }

    /// The connection calls are made over.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// The exchange, until `deadline`. Also bounds the hand-over: a full command channel blocks for as long as the broker
/// stalls.
async fn within<T>(
    deadline: Instant,
    exchange: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout_at(deadline, exchange).await.unwrap_or(Err(CallError::TimedOut))
}

/// An attempt that is accounted for when it is dropped, however that comes: another one may be faster, and a client
/// may go away.
struct Attempt {
    subject: &'static str,
    span: Span,
    begun: Instant,
    /// Why it failed, if it did; `None` while that is unknown.
    ending: Option<Option<&'static str>>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let failure = self.ending.unwrap_or(Some("cancelled"));
        metrics::requested(self.subject, self.begun.elapsed(), failure);
        if let Some(failure) = failure {
            span::fail(&self.span, failure);
        }
    }
}

/// What an instance of a service says when it is asked whether it is there.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Pong {
    /// The instance.
    pub id: String,
    /// What it depends on, each as a check of its `/health` in JSON.
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

impl From<NoReply> for CallError {
    fn from(reason: NoReply) -> Self {
        match reason {
            NoReply::NoResponders => Self::NoResponders,
            NoReply::ConnectionLost => Self::ConnectionLost,
        }
    }
}

fn request_headers(call: &Call, attempt: u32, now: Timestamp, instant: Instant) -> HeaderMap {
    let mut map = HeaderMap::new();
    span::inject(&mut headers::Outgoing(&mut map));
    let mut set = |name, value: &str| headers::set(&mut map, name, value);
    let budget =
        i64::try_from(call.deadline.saturating_duration_since(instant).as_millis()).unwrap_or(i64::MAX);
    set(headers::CORRELATION_ID, call.correlation_id.as_str());
    set(headers::ATTEMPT, &attempt.to_string());
    set(headers::BUDGET, &budget.to_string());
    set(headers::DEADLINE, &now.unix_millis().saturating_add(budget).to_string());
    let minted = call.idempotency_key.as_ref().is_some_and(|(_, origin)| *origin == KeyOrigin::Gateway);
    let optional = [
        (headers::AUTHORIZATION, call.authorization.clone()),
        (headers::IDEMPOTENCY_KEY, call.idempotency_key.as_ref().map(|(key, _)| key.to_header())),
        (headers::IDEMPOTENCY_KEY_ORIGIN, minted.then(|| "gateway".to_owned())),
        (headers::IF_MATCH, call.if_match.clone()),
        (headers::IF_NONE_MATCH, call.if_none_match.clone()),
        (headers::CLIENT_NETWORK, call.client_network.map(|network| network.to_string())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            set(name, &value);
        }
    }
    map
}

fn read_reply(message: Message) -> Result<Reply, CallError> {
    let map = message.headers.as_ref();
    let value = |name| headers::single(map, name).map_err(|_| CallError::MalformedReply);
    let status = match value(headers::STATUS)? {
        Some(status) => Some(status),
        None => value(headers::ERROR_CODE)?,
    };
    let status =
        status.and_then(|status| status.parse::<u16>().ok()).filter(|status| (200..600).contains(status));
    Ok(Reply {
        status: status.ok_or(CallError::MalformedReply)?,
        etag: value(headers::ETAG)?.map(str::to_owned),
        location: value(headers::LOCATION)?.map(str::to_owned),
        next_cursor: value(headers::NEXT_CURSOR)?.map(str::to_owned),
        problem: value(headers::PROBLEM)?.map(str::to_owned),
        first: value(headers::ORIGINAL_CORRELATION_ID)?.map(str::to_owned),
        retry_after: value(headers::RETRY_AFTER)?.and_then(|seconds| seconds.parse().ok()),
        not_executed: value(headers::EXECUTED)? == Some("false"),
        body: message.payload,
    })
}
