//! Conditional requests: what a reader is given who names versions (RFC 9110 §13).

use bytes::Bytes;
use contract::{Answer, Description, Precondition, Problem, ProblemType, Repeat};

/// What a reader is given who sent these values of `If-Match` and `If-None-Match` (RFC 9110 §13.2.2): 412 when it is
/// not the version they want, 304 without a body when it is one they hold. Writes judge theirs before they write.
pub(super) fn conditional(
    answer: Answer,
    operation: &Description,
    (wanted, held): &(Option<Precondition>, Option<Precondition>),
) -> Result<Answer, Problem> {
    if operation.repeat != Repeat::Safe || answer.status != 200 {
        return Ok(answer);
    }
    let matches = |wanted: &Precondition| match answer.etag {
        Some(etag) => wanted.matches_strongly(etag),
        // What has no tag is there, and no tag names it.
        None => *wanted == Precondition::Any,
    };
    if wanted.as_ref().is_some_and(|wanted| !matches(wanted)) {
        let current = answer.etag.map_or_else(|| "it has none".to_owned(), |etag| etag.to_string());
        let rule = format!("If-Match names another ETag than the current one: {current}");
        return Err(Problem::new(ProblemType::PreconditionFailed, rule));
    }
    match (held, answer.etag) {
        (Some(held), Some(etag)) if held.matches_weakly(etag) => {
            Ok(Answer { status: 304, body: Bytes::new(), ..answer })
        }
        _ => Ok(answer),
    }
}
