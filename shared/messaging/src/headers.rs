//! Every header name of the message contract, once, and how headers are read and written.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};

use contract::{Problem, ProblemType};

/// The id a request is found by.
pub const CORRELATION_ID: &str = "X-Correlation-ID";
/// The client's name for one intended write.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Who named the write: `gateway` when the client did not.
pub const IDEMPOTENCY_KEY_ORIGIN: &str = "Idempotency-Key-Origin";
/// `true` on an answer that was given before.
pub const REPLAYED: &str = "Idempotent-Replayed";
/// The id of the request that was first given this answer.
pub const ORIGINAL_CORRELATION_ID: &str = "Idempotency-Original-Correlation-Id";
/// JetStream: the write is refused unless this is the last sequence of its subject.
pub(super) const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";
/// Seconds after which the same request may be sent again.
pub const RETRY_AFTER: &str = "Retry-After";
/// `false` on a failure whose request was not carried out: another worker may be asked.
pub const EXECUTED: &str = "X-Executed";
/// The caller's bearer token.
pub const AUTHORIZATION: &str = "Authorization";
/// W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C Trace Context: what other vendors add to it.
pub const TRACESTATE: &str = "tracestate";
/// W3C Baggage; holds the correlation id only.
pub const BAGGAGE: &str = "baggage";
/// Where the client is, for operations that count attempts: an address, the first one of its network.
pub const CLIENT_NETWORK: &str = "X-Client-Network";
/// How often the request has been sent, this time included.
pub const ATTEMPT: &str = "X-Attempt";
/// Milliseconds the caller still waits.
pub const BUDGET: &str = "X-Budget-Ms";
/// The Unix time in milliseconds at which the caller stops waiting.
pub const DEADLINE: &str = "X-Deadline-Ms";
/// The version the client believes it is changing.
pub const IF_MATCH: &str = "If-Match";
/// The versions the client already holds.
pub const IF_NONE_MATCH: &str = "If-None-Match";
/// The HTTP status of a successful reply.
pub const STATUS: &str = "X-Status";
/// Why a failed reply failed: the last part of the problem's `type`.
pub const PROBLEM: &str = "X-Problem";
/// The cursor of the page that follows the one in a reply.
pub const NEXT_CURSOR: &str = "X-Next-Cursor";
/// The version of the representation in a reply.
pub const ETAG: &str = "ETag";
/// The path of a newly created resource.
pub const LOCATION: &str = "Location";
/// The media type of a failed reply's body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The status of a failed reply (ADR-32).
pub const ERROR_CODE: &str = "Nats-Service-Error-Code";
/// The failure in one line (ADR-32).
pub const ERROR: &str = "Nats-Service-Error";

/// Reads the one value of `name`, in whatever case the sender wrote it.
///
/// # Errors
/// A header that occurs twice, also in two spellings: which of them counts must not be a guess.
pub fn single<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers
        .into_iter()
        .flat_map(HeaderMap::iter)
        .filter(|(candidate, _)| AsRef::<str>::as_ref(*candidate).eq_ignore_ascii_case(name))
        .flat_map(|(_, values)| values.iter());
    let first = values.next().map(|value| value.as_str());
    match values.next() {
        None => Ok(first),
        Some(_) => Err(Problem::new(
            ProblemType::MalformedRequest,
            format!("the header {name} occurs more than once"),
        )),
    }
}

/// Sets `name` to `value`. Line breaks become spaces: `HeaderMap::insert` would panic on them.
pub fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    let value = value.replace(['\r', '\n'], " ");
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The headers of an outgoing message, for the contexts that travel with it.
pub(super) struct Outgoing<'a>(pub(super) &'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, name: &str, value: String) {
        if let Some(name) = [TRACEPARENT, TRACESTATE, BAGGAGE].into_iter().find(|known| *known == name)
            && !value.is_empty()
        {
            set(self.0, name, &value);
        }
    }
}

/// The headers of an incoming message. A context that is named twice is none.
pub(super) struct Incoming<'a>(pub(super) Option<&'a HeaderMap>);

impl Extractor for Incoming<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        single(self.0, name).ok().flatten()
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_in_any_case_and_never_guessed() {
        let mut headers = HeaderMap::new();
        set(&mut headers, CORRELATION_ID, "a");
        headers.insert("x-correlation-id", "b");
        assert!(single(Some(&headers), CORRELATION_ID).is_err());
        let mut headers = HeaderMap::new();
        headers.insert("IDEMPOTENCY-KEY", "k");
        assert_eq!(single(Some(&headers), IDEMPOTENCY_KEY).unwrap(), Some("k"));
        assert_eq!(single(None, IDEMPOTENCY_KEY).unwrap(), None);
    }

    #[test]
    fn line_breaks_cannot_be_written() {
        let mut headers = HeaderMap::new();
        set(&mut headers, ERROR, "a\r\nX-Status: 200");
        assert_eq!(single(Some(&headers), ERROR).unwrap(), Some("a  X-Status: 200"));
    }

    proptest! {
        #[test]
        fn any_text_can_be_written_and_is_one_line(text in "\\PC{0,60}|[\r\n\0 :a]{0,20}") {
            let mut headers = HeaderMap::new();
            set(&mut headers, ERROR, &text);
            let read = single(Some(&headers), ERROR).unwrap().unwrap_or_default();
            prop_assert!(!read.contains(['\r', '\n']));
            prop_assert_eq!(read, text.replace(['\r', '\n'], " "));
        }

        #[test]
        fn a_name_in_any_case_counts_once(spelled in "[xX]-[bB][uU][dD][gG][eE][tT]-[mM][sS]", again: bool) {
            let mut headers = HeaderMap::new();
            headers.append(spelled.as_str(), "1");
            if again {
                headers.append(BUDGET, "1");
            }
            prop_assert_eq!(single(Some(&headers), BUDGET).is_err(), again);
        }
    }
}
