//! `auth.refresh`.

use contract::auth::{Refresh, RefreshError, RefreshRequest, SignedIn};
use contract::{Context, Failure, Handle, Timestamp};

use super::{Auth, IDLE_SECONDS};
use crate::store::{Finish, Session};
use crate::tokens::RefreshToken;

/// How long after a token was replaced its owner may come with it once more, in seconds: the answer with the
/// new one may have been lost, or two tabs may have asked at once.
const GRACE_SECONDS: i64 = 10;

/// What a refresh token that we issued is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is the session's newest: it is replaced.
    Rotate,
    /// It was replaced a moment ago: its owner is given the same successor again.
    SameSuccessor,
    /// It was replaced before: there is a copy, and it is unknown which is the thief's. The session ends.
    Reused,
    /// The session is over, or does not know this token yet, as after a restore from a backup.
    Refused,
}

fn judge(token: RefreshToken, session: &Session, now: Timestamp) -> Verdict {
    let is_over =
        session.ended || now >= session.expires_at || now >= session.rotated_at.plus_seconds(IDLE_SECONDS);
    let in_grace = now < session.rotated_at.plus_seconds(GRACE_SECONDS);
    match token.counter.cmp(&session.counter) {
        _ if is_over => Verdict::Refused,
        std::cmp::Ordering::Equal => Verdict::Rotate,
        std::cmp::Ordering::Greater => Verdict::Refused,
        std::cmp::Ordering::Less if in_grace && token.counter + 1 == session.counter => {
            Verdict::SameSuccessor
        }
        std::cmp::Ordering::Less => Verdict::Reused,
    }
}

impl Handle<Refresh> for Auth {
    async fn handle(&self, cx: &Context, request: RefreshRequest) -> Result<SignedIn, Failure<RefreshError>> {
        let refused = || Failure::Refused(RefreshError::InvalidToken);
        let token = self.issuer.read_refresh_token(&request.refresh_token).ok_or_else(refused)?;
        // Twice, because another one may have come with the same token and been faster.
        for _ in 0..2 {
            let (mut session, owner) = self.store.session(token.session_id).await?.ok_or_else(refused)?;
            match judge(token, &session, cx.now) {
                Verdict::Rotate => {
                    if self.store.rotate_session(session.id, token.counter, cx.now, cx.deadline).await? {
                        session.counter += 1;
                        return self.signed_in(owner, &session, cx.now);
                    }
                }
                Verdict::SameSuccessor => return self.signed_in(owner, &session, cx.now),
                Verdict::Reused => {
                    self.store
                        .end_session(session.user_id, session.id, cx.now, &Finish::by(cx.deadline))
                        .await?;
                    self.revoked();
                    tracing::warn!(user_id = %session.user_id, "authn_token_reuse: a replaced refresh token was used again");
                    return Err(refused());
                }
                Verdict::Refused => return Err(refused()),
            }
        }
        Err(refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::auth::{SessionId, UserId};
    use uuid::Uuid;

    #[test]
    fn a_token_is_worth_what_its_session_says() {
        let rotated_at: Timestamp = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let id = SessionId(Uuid::from_u128(1));
        let expires_at = rotated_at.plus_seconds(30 * 24 * 60 * 60);
        let user_id = UserId(Uuid::from_u128(2));
        let created_at = rotated_at;
        let session = Session { id, user_id, created_at, ended: false, counter: 5, rotated_at, expires_at };
        let week = IDLE_SECONDS;
        for (counter, seconds, expected) in [
            (5, 0, Verdict::Rotate),
            (5, week - 1, Verdict::Rotate),
            (5, week, Verdict::Refused),
            (4, 0, Verdict::SameSuccessor),
            (4, GRACE_SECONDS - 1, Verdict::SameSuccessor),
            (4, GRACE_SECONDS, Verdict::Reused),
            (4, week, Verdict::Refused),
            (3, 0, Verdict::Reused),
            (0, week - 1, Verdict::Reused),
            (6, 0, Verdict::Refused),
        ] {
            let token = RefreshToken { session_id: id, counter };
            let verdict = judge(token, &session, rotated_at.plus_seconds(seconds));
            assert_eq!(verdict, expected, "token {counter} after {seconds} s");
        }
        let token = RefreshToken { session_id: id, counter: 5 };
        let ended = Session { ended: true, ..session };
        assert_eq!(judge(token, &ended, rotated_at), Verdict::Refused);
        let last = Session { expires_at: rotated_at.plus_seconds(60), ..session };
        assert_eq!(judge(token, &last, rotated_at.plus_seconds(60)), Verdict::Refused);
    }
}
