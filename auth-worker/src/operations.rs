//! What the auth worker does for each operation, one file each.

mod change_password;
mod end_session;
mod invite;
mod login;
mod logout;
mod logout_all;
mod me;
mod members;
mod once;
mod refresh;
mod sessions;
mod signup;
mod update_member;

use std::sync::Arc;

use aws_lc_rs::hmac;
use contract::auth::{AuthHandlers, Secret, SessionId, SignedIn, UserId};
use contract::{Failure, Timestamp};
use identity::ACCESS_TOKEN_SECONDS;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::hasher::{Hasher, HasherError};
use crate::keyring::KeyWrapper;
use crate::store::{AuthStore, Session, SessionUser};
use crate::throttle::Throttle;
use crate::tokens::{RefreshToken, SigningKeyError, TokenIssuer};

/// A session ends this long after it began, however active: 30 days, in seconds.
const SESSION_SECONDS: i64 = 30 * 24 * 60 * 60;
/// A session ends this long after its last refresh: 7 days, in seconds.
const IDLE_SECONDS: i64 = 7 * 24 * 60 * 60;

/// Answers `auth.*`.
pub struct Auth {
    store: Arc<AuthStore>,
    hasher: Hasher,
    throttle: Throttle,
    issuer: Arc<TokenIssuer>,
    /// Notified of every revocation that is in the database.
    revoked: Arc<Notify>,
    answers: AnswerKeys,
}

/// What hides the saved answers of named writes.
struct AnswerKeys {
    hashes: hmac::Key,
    seal: Arc<KeyWrapper>,
}

impl AuthHandlers for Auth {}

impl Auth {
    pub(crate) fn new(
        store: Arc<AuthStore>,
        hasher: Hasher,
        throttle: Throttle,
        issuer: Arc<TokenIssuer>,
        revoked: Arc<Notify>,
    ) -> Result<Self, SigningKeyError> {
        let (hashes, seal) = (issuer.derived_key("saved answers v1"), Arc::new(issuer.seal()?));
        let answers = AnswerKeys { hashes, seal };
        Ok(Self { store, hasher, throttle, issuer, revoked, answers })
    }

    /// Has what was just revoked published.
    fn revoked(&self) {
        self.revoked.notify_one();
    }

    /// The pair of tokens for `session` as it stands.
    fn signed_in<E>(
        &self,
        owner: SessionUser,
        session: &Session,
        now: Timestamp,
    ) -> Result<SignedIn, Failure<E>> {
        let newest = RefreshToken { session_id: session.id, counter: session.counter };
        let access_token = self
            .issuer
            .access_token(&owner, session.id, now)
            .map_err(|error: SigningKeyError| Failure::internal(&error))?;
        Ok(SignedIn {
            user: owner.user,
            access_token,
            refresh_token: self.issuer.refresh_token(newest),
            expires_in: ACCESS_TOKEN_SECONDS,
        })
    }
}

fn new_session(user_id: UserId, now: Timestamp) -> Session {
    Session {
        id: SessionId(Uuid::now_v7()),
        user_id,
        created_at: now,
        ended: false,
        counter: 0,
        rotated_at: now,
        expires_at: now.plus_seconds(SESSION_SECONDS),
    }
}

/// A token outlives its account.
fn no_account<E>() -> Failure<E> {
    Failure::Unauthenticated("the account of this access token does not exist any more")
}

fn hasher_failure<E>(error: HasherError) -> Failure<E> {
    match error {
        HasherError::Busy => Failure::Overloaded,
        HasherError::StoredHash(_) | HasherError::Failed(_) => Failure::internal(&error),
    }
}

/// What an invitation is stored under.
fn token_hash(token: &Secret) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(token.expose()).into()
}
