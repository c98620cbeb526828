//! Keyed writes: what identifies one intended write, and the answer that is saved for it.

use std::future::Future;

use bytes::Bytes;
use failpoint::fault_point;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::auth::{OrganizationId, Role, UserId};
use super::{
    Answer, Context, EntityTag, Failure, IdempotencyKey, Operation, Principal, RequestIds, Response,
};

/// Responses that hold no secret, and so may be saved and given out again. Sealed: what a login or an
/// invitation returns cannot be saved, because it does not compile.
///
/// ```
/// fn keep<T: contract::Replayable>() {}
/// keep::<contract::events::Event>();
/// ```
///
/// ```compile_fail,E0277
/// fn keep<T: contract::Replayable>() {}
/// keep::<contract::auth::Invitation>();
/// ```
pub trait Replayable: Response + sealed::SecretFree {}

impl<T: Response + sealed::SecretFree> Replayable for T {}

pub(super) mod sealed {
    /// Implemented beside each type, after looking at its fields.
    pub trait SecretFree {}
}

/// Who named the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// The client, who may repeat it through any gateway.
    Client,
    /// The gateway, so that its own repetitions are safe.
    Gateway,
}

/// One intended write: whose it is, its key, and what it is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotentRequest {
    /// The verified caller's organisation; half of the key's scope.
    pub organization_id: OrganizationId,
    /// The verified caller; the other half.
    pub user_id: UserId,
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// SHA-256 of operation, path and body: the same key may not be used for something else.
    pub fingerprint: [u8; 32],
    /// What the caller may do now.
    pub role: Role,
    /// Who named it.
    pub origin: KeyOrigin,
}

/// The answer that was given to a write when it took effect, or was refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedResponse {
    /// Of the write it answered.
    pub fingerprint: [u8; 32],
    /// What the caller could do then.
    pub role: Role,
    /// The request it answered.
    pub first: RequestIds,
    /// HTTP status.
    pub status: u16,
    /// The representation's validator.
    pub etag: Option<EntityTag>,
    /// The path of a newly created resource.
    pub location: Option<String>,
    /// The very bytes.
    pub body: Bytes,
}

/// Why a saved answer is not given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReplay {
    /// The key was used for another operation, object or body.
    OtherWrite,
    /// The caller's role is lower than when the answer was given.
    RoleLowered,
}

impl<E> From<NoReplay> for Failure<E> {
    fn from(reason: NoReplay) -> Self {
        match reason {
            NoReplay::OtherWrite => Self::KeyReused,
            NoReplay::RoleLowered => Self::Forbidden("your role has changed since this was answered"),
        }
    }
}

impl IdempotentRequest {
    /// The write that `principal` names `key`: `subject` with `body`, which holds the path's id, too. Who has no token
    /// is the nil user of the nil organisation.
    pub fn new(
        principal: Option<&Principal>,
        key: &IdempotencyKey,
        origin: KeyOrigin,
        subject: &str,
        body: &Value,
    ) -> Self {
        let mut fingerprint = Sha256::new();
        fingerprint.update(b"v1\n");
        fingerprint.update(subject.as_bytes());
        fingerprint.update(b"\n");
        fingerprint.update(canonical(body).to_string().as_bytes());
        Self {
            organization_id: principal
                .map_or(OrganizationId(Uuid::nil()), |principal| principal.organization_id),
            user_id: principal.map_or(UserId(Uuid::nil()), |principal| principal.user_id),
            key_hash: Sha256::digest(key.as_str().as_bytes()).into(),
            fingerprint: fingerprint.finalize().into(),
            role: principal.map_or(Role::User, |principal| principal.role),
            origin,
        }
    }

    /// The saved answer, to be given out again for this write.
    ///
    /// # Errors
    /// [`NoReplay`].
    pub fn replay(&self, saved: SavedResponse) -> Result<Answer, NoReplay> {
        if saved.fingerprint != self.fingerprint {
            return Err(NoReplay::OtherWrite);
        }
        if self.role < saved.role {
            return Err(NoReplay::RoleLowered);
        }
        let damaged = fault_point!("damage-replay");
        Ok(Answer {
            status: saved.status,
            body: if damaged { [&saved.body, &b" "[..]].concat().into() } else { saved.body },
            etag: saved.etag,
            location: saved.location,
            next_cursor: None,
            first: Some(saved.first),
        })
    }

    /// What is saved of `answer`, which the request `cx` was given.
    pub fn to_saved(&self, answer: &Answer, cx: &Context) -> SavedResponse {
        SavedResponse {
            fingerprint: self.fingerprint,
            role: self.role,
            first: cx.ids.clone(),
            status: answer.status,
            etag: answer.etag,
            location: answer.location.clone(),
            body: answer.body.clone(),
        }
    }
}

/// Statuses of refusals that are saved: they were judged on what is stored, and stay what they are. 412 is not among
/// them: nothing was done, and a precondition that is corrected makes it another request.
pub const fn is_saved(status: u16) -> bool {
    matches!(status, 200..=299 | 404 | 409 | 422)
}

/// The same JSON with its members in order, whatever order they arrived in.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            let sorted = names.into_iter().map(|name| (name.clone(), canonical(&members[name])));
            Value::Object(sorted.collect::<Map<_, _>>())
        }
        scalar => scalar.clone(),
    }
}

/// Where a worker looks up the answers it has saved.
pub trait SavedResponses: Send + Sync + 'static {
    /// The answer saved under this write's key, read on a connection of its own.
    fn find_saved(
        &self,
        write: &IdempotentRequest,
    ) -> impl Future<Output = Result<Option<SavedResponse>, Failure<std::convert::Infallible>>> + Send;
}

/// A worker's side of one operation that is done once per key, and whose answers may hold secrets: they are not saved
/// by others, and not as they are.
pub trait HandleOnce<O: Operation>: Send + Sync + 'static {
    /// Carries the operation out for `cx.principal()`. Under a key that was used before, nothing happens, and the
    /// answer is the first one, or says that it was given.
    fn handle(
        &self,
        cx: &Context,
        request: O::Request,
    ) -> impl Future<Output = Result<Answer, Failure<O::Error>>> + Send;
}

/// A worker's side of one keyed operation.
pub trait HandleKeyed<O: Operation<Response: Replayable>>: SavedResponses {
    /// Carries the operation out for `cx.principal()`, and keeps the answer under `cx.write` in the
    /// effect's own transaction. Where one is saved already, nothing happens and that one is returned.
    fn handle(
        &self,
        cx: &Context,
        request: O::Request,
    ) -> impl Future<Output = Result<Answer, Failure<O::Error>>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::SessionId;
    use crate::{CorrelationId, TraceContext};
    use crate::{Timestamp, json};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn principal(role: Role) -> Principal {
        Principal {
            user_id: UserId(Uuid::from_u128(1)),
            organization_id: OrganizationId(Uuid::from_u128(2)),
            role,
            session_id: SessionId(Uuid::from_u128(3)),
            token_version: 0,
            expires_at: Timestamp::from_unix_millis(0).unwrap(),
        }
    }

    fn write(subject: &str, body: &str) -> IdempotentRequest {
        let key = IdempotencyKey::parse("submit-123").unwrap();
        let body = json::parse(body.as_bytes()).unwrap();
        IdempotentRequest::new(Some(&principal(Role::Moderator)), &key, KeyOrigin::Client, subject, &body)
    }

    #[test]
    fn fingerprints_see_values_and_nothing_else() {
        let first = write("events.update", r#"{"id":"a","title":"x","n":[1,{"b":2,"a":3}]}"#);
        let spelled =
            write("events.update", " { \"n\" : [1.0, {\"a\":3,\"b\":2}],\n\"title\":\"x\", \"id\":\"a\"}");
        assert_eq!(first, spelled);
        for other in [
            write("events.create", r#"{"id":"a","title":"x","n":[1,{"b":2,"a":3}]}"#),
            write("events.update", r#"{"id":"b","title":"x","n":[1,{"b":2,"a":3}]}"#),
            write("events.update", r#"{"id":"a","title":"x ","n":[1,{"b":2,"a":3}]}"#),
            write("events.update", r#"{"id":"a","title":"x","n":[{"b":2,"a":3},1]}"#),
            write("events.update", r#"{"id":"a","title":"x"}"#),
        ] {
            assert_ne!(first.fingerprint, other.fingerprint);
            assert_eq!(first.key_hash, other.key_hash);
        }
    }

    #[test]
    fn answers_are_given_out_again_to_the_same_write_and_no_lesser_role() {
        let first = write("events.submit", r#"{"id":"a"}"#);
        let saved = SavedResponse {
            fingerprint: first.fingerprint,
            role: Role::Moderator,
            first: RequestIds {
                correlation_id: CorrelationId::parse("first").unwrap(),
                trace: TraceContext::NONE,
            },
            status: 200,
            etag: Some(EntityTag(2)),
            location: None,
            body: Bytes::from_static(b"{}"),
        };
        let again = first.replay(saved.clone()).unwrap();
        assert_eq!((again.status, &again.body, again.etag), (200, &saved.body, saved.etag));
        assert_eq!(again.first, Some(saved.first.clone()));
        let raised = IdempotentRequest { role: Role::Admin, ..first.clone() };
        assert!(raised.replay(saved.clone()).is_ok());
        let lowered = IdempotentRequest { role: Role::User, ..first };
        assert_eq!(lowered.replay(saved.clone()).unwrap_err(), NoReplay::RoleLowered);
        let other = write("events.submit", r#"{"id":"b"}"#);
        assert_eq!(other.replay(saved).unwrap_err(), NoReplay::OtherWrite);
    }

    proptest! {
        #[test]
        fn member_order_never_matters(mut members in proptest::collection::vec(("[a-z]{1,4}", any::<i64>()), 1..8)) {
            members.sort();
            members.dedup_by(|a, b| a.0 == b.0);
            let object = |members: &[(String, i64)]| {
                let inside: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", inside.join(","))
            };
            let forwards = write("events.create", &object(&members));
            members.reverse();
            prop_assert_eq!(forwards, write("events.create", &object(&members)));
        }
    }
}
