//! The failure table: how an attempt ended, and what follows from that.

use contract::{ProblemType, Repeat};
use messaging::{CallError, Reply};
use strum::IntoStaticStr;

use super::breaker::Signal;

/// How one attempt to have a request carried out ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", const_into_str)]
pub(crate) enum Classification {
    /// There is no connection to the broker; nothing was sent.
    NotConnected,
    /// No worker listens; nothing ran.
    NoResponders,
    /// The message is larger than the broker takes; nothing was sent.
    TooLarge,
    /// The worker has no room for it; nothing ran.
    Shed,
    /// The worker cannot do it at the moment, its database is away, say; nothing was done.
    Unavailable,
    /// The worker's transaction collided with others again and again; nothing was done.
    Contended,
    /// The worker was given it too late, or did not get to the commit in time; nothing was done.
    Expired,
    /// No answer in time. Named as OpenTelemetry's `error.type` is.
    #[strum(serialize = "timeout")]
    TimedOut,
    /// The connection to the broker broke while the worker was at it.
    ConnectionLost,
    /// The worker's connection to its database broke while it committed, or kept it from finding what it had
    /// answered before.
    CommitUnknown,
    /// A defect in the worker; its transaction was rolled back.
    Defect,
    /// The worker has done its work, and the answer is larger than the broker carries.
    ReplyTooLarge,
    /// An answer that cannot be understood.
    MalformedReply,
    /// Another request with this key is under way.
    KeyInProgress,
    /// The request was judged and refused, whatever the reason: the worker works.
    Refused,
    /// It succeeded.
    Success,
}

/// Whether the gateway may send a request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// It would not help, or the client must decide.
    No,
    /// Nothing can have run.
    Always,
    /// It may have run: only a read, or a write that has a key.
    IfSafe,
}

impl Classification {
    /// How this attempt ended.
    pub(crate) fn of(result: &Result<Reply, CallError>) -> Self {
        match result {
            Err(CallError::NotConnected) => Self::NotConnected,
            Err(CallError::NoResponders) => Self::NoResponders,
            Err(CallError::TooLarge) => Self::TooLarge,
            Err(CallError::TimedOut) => Self::TimedOut,
            Err(CallError::ConnectionLost) => Self::ConnectionLost,
            Err(CallError::MalformedReply) => Self::MalformedReply,
            Ok(reply) => Self::of_reply(reply),
        }
    }

    fn of_reply(reply: &Reply) -> Self {
        let is = |kind| reply.is_problem(kind);
        match (reply.status, reply.not_executed) {
            (..400, _) => Self::Success,
            (409, _) if is(ProblemType::KeyInProgress) => Self::KeyInProgress,
            (..500, _) => Self::Refused,
            (503, _) if is(ProblemType::Contended) => Self::Contended,
            (503, true) if is(ProblemType::Overloaded) => Self::Shed,
            (503, true) => Self::Unavailable,
            (504, true) => Self::Expired,
            (504, false) if is(ProblemType::DeadlineExceeded) => Self::TimedOut,
            (503 | 504, false) => Self::CommitUnknown,
            (500, _) if is(ProblemType::ReplyTooLarge) => Self::ReplyTooLarge,
            _ => Self::Defect,
        }
    }

    /// Whether the gateway may send the request again.
    pub(crate) const fn again(self) -> Again {
        match self {
            Self::NotConnected | Self::NoResponders | Self::Shed | Self::Unavailable => Again::Always,
            Self::TimedOut | Self::ConnectionLost | Self::CommitUnknown => Again::IfSafe,
            Self::TooLarge
            | Self::Contended
            | Self::Expired
            | Self::Defect
            | Self::ReplyTooLarge
            | Self::MalformedReply
            | Self::KeyInProgress
            | Self::Refused
            | Self::Success => Again::No,
        }
    }

    /// Whether the gateway may send a request of this kind again.
    pub(crate) fn may_repeat(self, repeat: Repeat) -> bool {
        match self.again() {
            Again::No => false,
            Again::Always => true,
            // The gateway names every write that may be repeated, when the client has not.
            Again::IfSafe => matches!(repeat, Repeat::Safe | Repeat::WithKey),
        }
    }

    /// Whether the worker has judged the request: nothing that is still under way could say more.
    pub(crate) const fn is_answer(self) -> bool {
        matches!(self, Self::Success | Self::Refused | Self::KeyInProgress)
    }

    /// Whether it may have been carried out, and that is unknown.
    pub(crate) const fn leaves_unknown(self) -> bool {
        matches!(self, Self::TimedOut | Self::ConnectionLost | Self::CommitUnknown | Self::MalformedReply)
    }

    /// What it says to the breaker; `None`: nothing about the worker or its database.
    ///
    /// A breaker stands before all requests, so it counts nothing that belongs to one request, one object or
    /// one caller (`docs/adr/0014-resilience.md`).
    pub(crate) const fn signal(self) -> Option<Signal> {
        match self {
            // The broker is a matter of its own, and says at once that no worker listens: a breaker would not answer
            // sooner, but would not notice a worker's return. A worker without room works: with a breaker open it
            // would not.
            Self::NotConnected
            | Self::Shed
            | Self::ConnectionLost
            | Self::NoResponders
            // This request.
            | Self::TooLarge
            | Self::KeyInProgress
            // This object, which others change all the time.
            | Self::Contended
            // How long the caller waits. That a worker is slow is counted while it is waited for (`slow_after`).
            | Self::Expired
            | Self::TimedOut => None,
            Self::Unavailable | Self::CommitUnknown | Self::Defect | Self::MalformedReply => {
                Some(Signal::Failure)
            }
            Self::Refused | Self::ReplyTooLarge | Self::Success => Some(Signal::Success),
        }
    }

    /// One word for logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        self.into_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use contract::problem::Outcome;
    use contract::{CorrelationId, Failure, Problem, RequestIds, TraceContext};
    use std::convert::Infallible;

    /// What a worker replies to a request that ends in `problem`, as its server writes it.
    fn reply(problem: &Problem) -> Result<Reply, CallError> {
        let ids = RequestIds { correlation_id: CorrelationId::mint(), trace: TraceContext::NONE };
        Ok(Reply {
            status: problem.kind.status(),
            body: Bytes::from(problem.body(&ids).to_json()),
            etag: None,
            location: None,
            next_cursor: None,
            problem: Some(problem.kind.name().to_owned()),
            first: None,
            retry_after: problem.retry_after,
            not_executed: problem.proves_nothing_ran(),
        })
    }

    fn refusal(kind: ProblemType) -> Result<Reply, CallError> {
        reply(&Problem::new(kind, ""))
    }

    fn failure(failure: Failure<Infallible>) -> Result<Reply, CallError> {
        reply(&failure.into_problem())
    }

    fn success() -> Result<Reply, CallError> {
        let body = Bytes::from_static(b"{}");
        Ok(Reply {
            status: 200,
            body,
            etag: None,
            location: None,
            next_cursor: None,
            problem: None,
            first: None,
            retry_after: None,
            not_executed: false,
        })
    }

    /// The table of the design, one row per failure: its status and the outcome that the client gets for
    /// a write, whether the gateway sends it again, what it says to the breaker. Whether an answer is saved
    /// under the key is for the worker to decide (`is_saved`).
    #[test]
    fn every_failure_is_treated_as_the_table_says() {
        use Again::{Always, IfSafe, No};
        use Outcome::{None as Nothing, Unknown};
        use ProblemType as P;
        use Signal::{Failure as Bad, Success as Good};
        let panicked = Problem::new(P::Internal, "").with_outcome(Unknown);
        let late = Problem::new(P::DeadlineExceeded, "").with_outcome(Unknown);
        let closed = |error: &dyn std::fmt::Display| Failure::<Infallible>::commit_unknown(error);
        #[rustfmt::skip]
        let table = [
            ("broker away, nothing sent", Err(CallError::NotConnected),          503, Nothing, Always,None),
            ("no responders",             Err(CallError::NoResponders),          503, Nothing, Always,None),
            ("too large to be sent",      Err(CallError::TooLarge),              413, Nothing, No,None),
            ("worker sheds",              failure(Failure::Overloaded),          503, Nothing, Always,None),
            ("database away",             failure(Failure::StoreUnavailable),    503, Nothing, Always,Some(Bad)),
            ("collisions, exhausted",     failure(Failure::Contended),           503, Nothing, No,None),
            ("no answer in time",         Err(CallError::TimedOut),              504, Unknown, IfSafe,None),
            ("work not done in time",     reply(&late),                          504, Unknown, IfSafe,None),
            ("connection lost",           Err(CallError::ConnectionLost),        504, Unknown, IfSafe,None),
            ("ambiguous commit",          failure(closed(&"gone")),              504, Unknown, IfSafe,Some(Bad)),
            ("worker bug",                failure(Failure::Internal),            500, Nothing, No,Some(Bad)),
            ("worker panic",              reply(&panicked),                      500, Unknown, No,Some(Bad)),
            ("malformed reply",           Err(CallError::MalformedReply),        502, Unknown, No,Some(Bad)),
            ("answer too large",          refusal(P::ReplyTooLarge),             500, Nothing, No,Some(Good)),
            ("expired on arrival",        refusal(P::DeadlineExceeded),          504, Nothing, No,None),
            ("expired before commit",     failure(Failure::Expired),             504, Nothing, No,None),
            ("syntax",                    refusal(P::MalformedRequest),          400, Nothing, No,Some(Good)),
            ("schema",                    failure(Failure::Invalid(vec![])),     422, Nothing, No,Some(Good)),
            ("who are you",               refusal(P::Unauthenticated),           401, Nothing, No,Some(Good)),
            ("you may not",               refusal(P::Forbidden),                 403, Nothing, No,Some(Good)),
            ("too many",                  refusal(P::RateLimited),               429, Nothing, No,Some(Good)),
            ("not there",                 refusal(P::NotFound),                  404, Nothing, No,Some(Good)),
            ("wrong state",               refusal(P::WrongState),                409, Nothing, No,Some(Good)),
            ("other version",             refusal(P::PreconditionFailed),        412, Nothing, No,Some(Good)),
            ("success",                   success(),                             200, Nothing, No,Some(Good)),
            ("key in flight",             refusal(P::KeyInProgress),             409, Nothing, No,None),
            ("key reused",                failure(Failure::KeyReused),           422, Nothing, No,Some(Good)),
        ];
        for (row, result, status, outcome, again, signal) in table {
            let class = Classification::of(&result);
            let told = match &result {
                Err(error) => {
                    let problem = error.into_problem(Repeat::WithKey);
                    (problem.kind.status(), problem.outcome)
                }
                Ok(reply) => {
                    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                    let unknown = body["outcome"] == "unknown";
                    (reply.status, if unknown { Unknown } else { Nothing })
                }
            };
            assert_eq!(told, (status, outcome), "{row}");
            assert_eq!((class.again(), class.signal()), (again, signal), "{row}: {class:?}");
        }
    }

    #[test]
    fn what_may_have_run_is_repeated_only_when_that_is_safe() {
        for (class, repeats) in [
            (Classification::Shed, [true, true, true]),
            (Classification::TimedOut, [true, true, false]),
            (Classification::ConnectionLost, [true, true, false]),
            (Classification::Defect, [false, false, false]),
        ] {
            for (repeat, expected) in [Repeat::Safe, Repeat::WithKey, Repeat::Never].into_iter().zip(repeats)
            {
                assert_eq!(class.may_repeat(repeat), expected, "{class:?} {repeat:?}");
            }
        }
        // A 503 that does not say that nothing ran may have run.
        let silent = reply(&Problem::new(ProblemType::Unavailable, "").with_outcome(Outcome::Unknown));
        assert!(!Classification::of(&silent).may_repeat(Repeat::Never));
    }
}
