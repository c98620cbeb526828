//! Takes an operation's request, caller and headers out of an HTTP request.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use contract::auth::UserId;
use contract::schema::parse_body;
use contract::{
    Access, IdempotencyKey, Method, Operation, Precondition, Problem, ProblemType, RequestDecoder, Timestamp,
    Violation,
};
use http_body_util::LengthLimitError;
use identity::Verifier;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::fields::parts;
use crate::headers::{IDEMPOTENCY_KEY, PREFER};

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The one value of a header; two are a malformed request, and so is one that is not ASCII.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let malformed = || Problem::new(ProblemType::MalformedRequest, format!("the header {name} is malformed"));
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.to_str().map_err(|_| malformed())).transpose()?;
    if values.next().is_some() {
        return Err(Problem::new(
            ProblemType::MalformedRequest,
            format!("the header {name} occurs more than once"),
        ));
    }
    Ok(first)
}

/// Verifies the caller, if the operation needs one; returns the `Authorization` value to forward, and whose
/// it is.
///
/// In the first moments of a gateway, when it knows no keys yet, the request waits for them until `hold_until`.
pub(crate) async fn authorization<O: Operation>(
    headers: &HeaderMap,
    verifier: &Verifier,
    hold_until: Instant,
) -> Result<Option<(String, UserId)>, Problem> {
    let value = single(headers, &header::AUTHORIZATION)?;
    if O::ACCESS != Access::Public && value.is_some() && !verifier.is_ready() {
        // Judged below, whether they have come or not.
        let _ = tokio::time::timeout_at(hold_until, verifier.ready()).await;
    }
    let (now, instant) = (Timestamp::now(), Instant::now());
    let principal = verifier.authorize(O::ACCESS, O::REPEAT, value, now, instant)?;
    Ok(value.zip(principal).map(|(value, principal)| (value.to_owned(), principal.user_id)))
}

/// How long the client wants to wait at most: `Prefer: wait=<seconds>` (RFC 7240). A preference that makes no
/// sense is no error; it is not applied.
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = lines.flat_map(|line| parts(line, ','));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = parts(preference, ';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').parse().ok())
    });
    seconds.flatten().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// The client's idempotency key.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    let rule =
        "the header Idempotency-Key must hold 1 to 255 printable ASCII characters, bare or in double quotes";
    IdempotencyKey::parse(value).map(Some).ok_or_else(|| Problem::new(ProblemType::MalformedRequest, rule))
}

/// The value of `If-Match` or `If-None-Match`. Lists may be spread over several lines (RFC 9110 §5.3).
pub(crate) fn precondition(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let malformed = || {
        Problem::new(ProblemType::MalformedRequest, format!("the header {name} is no list of entity tags"))
    };
    let lines = headers.get_all(name).iter().map(|value| value.to_str().map_err(|_| malformed()));
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    if lines.is_empty() {
        return Ok(None);
    }
    let value = lines.join(", ");
    Precondition::parse(&value).map(|_| Some(value)).ok_or_else(malformed)
}

/// Refuses clients that accept no JSON.
pub(crate) fn accepts_json(headers: &HeaderMap) -> Result<(), Problem> {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<(u8, bool)> = lines.flat_map(|line| parts(line, ',')).map(judge_range).collect();
    // The most specific range that fits decides (RFC 9110 §12.5.1).
    let most_specific = ranges.iter().map(|(specificity, _)| *specificity).max();
    let acceptable = match most_specific {
        // Without any range, everything is accepted.
        None => true,
        Some(0) => false,
        Some(most) => ranges.iter().any(|(specificity, accepted)| *specificity == most && *accepted),
    };
    if acceptable {
        Ok(())
    } else {
        Err(Problem::new(ProblemType::NotAcceptable, "answers are application/json"))
    }
}

/// How specifically a media range names JSON, 0 for not at all, and whether it is accepted or excluded by `q=0`.
fn judge_range(range: &str) -> (u8, bool) {
    let mut parts = parts(range, ';');
    let specificity = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "application/json" | "application/problem+json" => 3,
        "application/*" => 2,
        // The latter is what some clients send for the former.
        "*/*" | "*" => 1,
        _ => 0,
    };
    let weight = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok()).flatten()
    });
    (specificity, weight.is_none_or(|weight| weight > 0.0))
}

/// The operation's request: path id, query and body as one checked JSON object.
pub(crate) async fn request<O: Operation>(
    decoder: &RequestDecoder<O::Request>,
    parts: &Parts,
    body: Body,
    id: Option<String>,
) -> Result<Value, Problem> {
    let mut violations = Vec::new();
    let mut value = match O::ROUTE.method {
        Method::Get => query(decoder, &parts.uri, &mut violations),
        Method::Delete => Value::Object(Map::new()),
        Method::Post | Method::Patch => parse_body(&json_body(&parts.headers, body, O::MAX_BODY).await?)?,
    };
    if let (Some(id), Value::Object(members)) = (id, &mut value)
        && members.insert("id".to_owned(), Value::String(id)).is_some()
    {
        violations.push(Violation::at("id", "unknown_field", "stands in the path, not in the body"));
    }
    decoder.normalize(&mut value);
    violations.extend(decoder.violations(&value));
    if violations.is_empty() { Ok(value) } else { Err(Problem::invalid(violations)) }
}

/// The query string as an object: whole numbers where the schema has numbers, text elsewhere.
fn query<T: contract::Request>(
    decoder: &RequestDecoder<T>,
    uri: &Uri,
    violations: &mut Vec<Violation>,
) -> Value {
    let mut members = Map::new();
    for (name, text) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let number = if decoder.is_integer(&name) { text.parse::<i64>().ok() } else { None };
        let value = number.map_or_else(|| Value::String(text.into_owned()), Value::from);
        if members.insert(name.to_string(), value).is_some() {
            violations.push(Violation::at(&name, "repeated", "must not occur more than once"));
        }
    }
    Value::Object(members)
}

/// Refuses a body that would have to be decoded first.
fn is_plain(headers: &HeaderMap) -> Result<(), Problem> {
    let mut lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let plain = lines.all(|line| {
        line.to_str().is_ok_and(|line| parts(line, ',').all(|coding| coding.eq_ignore_ascii_case("identity")))
    });
    let rule = "the body must not be compressed or encoded otherwise; see the header Accept-Encoding";
    if plain { Ok(()) } else { Err(Problem::new(ProblemType::UnsupportedContentEncoding, rule)) }
}

async fn json_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    if !body.is_end_stream() {
        is_plain(headers)?;
    }
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(Problem::too_large(limit));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await;
    let body = match read {
        Err(_) => {
            return Err(Problem::new(ProblemType::RequestTimeout, "the body did not arrive in time"));
        }
        Ok(Ok(body)) => body,
        Ok(Err(error)) if is_limit(&error) => return Err(Problem::too_large(limit)),
        Ok(Err(_)) => return Err(Problem::new(ProblemType::MalformedRequest, "the body broke off")),
    };
    if !body.is_empty() && !is_json(headers) {
        let rule = "the body must be application/json; say so in the header Content-Type";
        return Err(Problem::new(ProblemType::UnsupportedMediaType, rule));
    }
    Ok(body)
}

fn is_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<LengthLimitError>())
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}
