//! From what came of a request to the message that is the reply.

use async_nats::HeaderMap;
use bytes::Bytes;
use contract::problem::{PROBLEM_JSON, ProblemBody};
use contract::{Answer, Problem, ProblemType, RequestIds};

use super::{HEADER_ALLOWANCE, headers};

/// A reply that is to be sent, and what is said of it in spans, metrics and lines.
pub(super) struct OutgoingReply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The name of the problem of a reply that failed.
    pub(super) problem: Option<&'static str>,
    /// The request that was given the same answer first.
    pub(super) first: Option<RequestIds>,
}

impl OutgoingReply {
    /// The reply to the request with these ids, in a message of at most `max_payload` bytes.
    pub(super) fn new(ids: &RequestIds, result: Result<Answer, Problem>, max_payload: usize) -> Self {
        let mut map = HeaderMap::new();
        headers::set(&mut map, headers::CORRELATION_ID, ids.correlation_id.as_str());
        match result {
            Ok(answer) if answer.body.len() + HEADER_ALLOWANCE > max_payload => {
                let rule = "the answer is larger than the broker carries; ask for a smaller page";
                Self::failure(ids, &Problem::new(ProblemType::ReplyTooLarge, rule), map)
            }
            Ok(answer) => Self::answer(answer, map),
            Err(problem) => Self::failure(ids, &problem, map),
        }
    }

    fn answer(answer: Answer, mut map: HeaderMap) -> Self {
        if answer.status < 400 {
            headers::set(&mut map, headers::STATUS, &answer.status.to_string());
        } else {
            let refusal = serde_json::from_slice::<ProblemBody>(&answer.body).ok();
            let summary = refusal.as_ref().map(|body| format!("{}: {}", body.title, body.detail));
            let name = refusal.as_ref().and_then(ProblemBody::name);
            set_failure(&mut map, answer.status, &summary.unwrap_or_default(), name);
        }
        if let Some(etag) = answer.etag {
            headers::set(&mut map, headers::ETAG, &etag.to_string());
        }
        if let Some(location) = &answer.location {
            headers::set(&mut map, headers::LOCATION, location);
        }
        if let Some(cursor) = &answer.next_cursor {
            headers::set(&mut map, headers::NEXT_CURSOR, cursor);
        }
        if let Some(first) = &answer.first {
            headers::set(&mut map, headers::REPLAYED, "true");
            headers::set(&mut map, headers::ORIGINAL_CORRELATION_ID, first.correlation_id.as_str());
        }
        Self { status: answer.status, headers: map, body: answer.body, problem: None, first: answer.first }
    }

    fn failure(ids: &RequestIds, problem: &Problem, mut map: HeaderMap) -> Self {
        let status = problem.kind.status();
        let summary = format!("{}: {}", problem.kind.title(), problem.detail);
        set_failure(&mut map, status, &summary, Some(problem.kind.name()));
        if problem.proves_nothing_ran() {
            headers::set(&mut map, headers::EXECUTED, "false");
        }
        if let Some(seconds) = problem.retry_after {
            headers::set(&mut map, headers::RETRY_AFTER, &seconds.to_string());
        }
        let body = problem.body(ids).to_json().into();
        Self { status, headers: map, body, problem: Some(problem.kind.name()), first: None }
    }
}

fn set_failure(map: &mut HeaderMap, status: u16, summary: &str, problem: Option<&str>) {
    headers::set(map, headers::ERROR_CODE, &status.to_string());
    headers::set(map, headers::ERROR, summary);
    if let Some(problem) = problem {
        headers::set(map, headers::PROBLEM, problem);
    }
    headers::set(map, headers::CONTENT_TYPE, PROBLEM_JSON);
}
