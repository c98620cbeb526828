//! What a message brings along: its ids, how long its sender still waits, who sent it, and what became of it.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use contract::{
    ClientNetwork, Context, CorrelationId, Description, IdempotencyKey, KeyOrigin, Precondition, Problem,
    ProblemType, RequestIds, Timestamp,
};
use identity::Verifier;
use telemetry::span;
use tokio::time::Instant;
use tracing::Span;

use super::reply::OutgoingReply;
use super::{headers, metrics};

/// A sender whose clock is ahead by more than this cannot give a usable deadline.
const MAX_CLOCK_SKEW_MS: i64 = 60_000;

/// What a message brings along, read before anything can fail.
pub(super) struct IncomingRequest {
    pub(super) ids: RequestIds,
    attempt: u32,
    /// Since it was sent, by the sender's clock and ours.
    waited: Option<Duration>,
    received: Instant,
    now: Timestamp,
}

impl IncomingRequest {
    /// Reads it of `message`, and begins the span of what `worker` does for it.
    pub(super) fn read(
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
        let incoming = Self {
            ids: RequestIds { correlation_id, trace: span::ids(&span) },
            attempt: value(headers::ATTEMPT).and_then(|value| value.parse().ok()).unwrap_or(1),
            waited: waited.map(|waited| Duration::from_millis(waited.try_into().unwrap_or(0))),
            received,
            now,
        };
        (incoming, span)
    }

    /// Says in the span, the metrics and the one line per message how it was answered.
    pub(super) fn account(&self, subject: &'static str, reply: &OutgoingReply, took: Duration, span: &Span) {
        let (status, problem) = (reply.status, reply.problem);
        span::reply(span, status, problem);
        if let Some(first) = &reply.first {
            span::replayed(span, first);
        }
        let failure = (status >= 500).then(|| problem.unwrap_or("failed"));
        metrics::processed(subject, took, self.waited, outcome(status), failure);
        tracing::info!(
            subject,
            status,
            outcome = outcome(status),
            problem,
            duration_us = micros(took),
            attempt = self.attempt,
            replayed = reply.first.is_some(),
            original_correlation_id = reply.first.as_ref().map(|first| first.correlation_id.as_str()),
            queue_wait_ms = self.waited.map(|waited| u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)),
            "{subject}"
        );
    }

    /// Everything that is decided before the body is read: deadline, caller, access, header syntax.
    pub(super) fn context(
        &self,
        operation: &Description,
        map: Option<&HeaderMap>,
        verifier: &Verifier,
        max_reply: usize,
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
            max_reply,
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
}

/// The idempotency key of a message, and who named it.
pub(super) fn key(headers: Option<&HeaderMap>) -> Result<Option<(IdempotencyKey, KeyOrigin)>, Problem> {
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
