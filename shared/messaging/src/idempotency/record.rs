//! What stands in the bucket under an idempotency key.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use contract::auth::Role;
use contract::{CorrelationId, EntityTag, IdempotentRequest, RequestIds, SavedResponse, TraceContext};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Larger records are replaced by a pointer to the database.
const MAX_RECORD: usize = 32 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// An owner is at it, until its lease is over.
    Running,
    /// None is: the last run had no effect.
    Free,
    /// It has been answered.
    Done,
}

/// What stands under a key. Holds nothing secret: bodies of responses that may be saved, and hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) state: State,
    /// Of the write; checked before anything else.
    pub(super) fingerprint: String,
    /// Who wrote this: a lost acknowledgement of one's own write is no conflict.
    pub(super) owner: Uuid,
    /// How long the owner may run, in milliseconds.
    pub(super) lease_ms: u64,
    /// The answer; without one, it is in the database only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<CachedAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CachedAnswer {
    role: Role,
    correlation_id: String,
    trace_id: String,
    #[serde(default)]
    span_id: String,
    status: u16,
    etag: Option<i64>,
    location: Option<String>,
    /// JSON is text.
    body: String,
}

impl Record {
    pub(super) fn running(write: &IdempotentRequest, owner: Uuid, lease: Duration) -> Self {
        Self {
            state: State::Running,
            fingerprint: encoded(&write.fingerprint),
            owner,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            answer: None,
        }
    }

    pub(super) fn done(&self, saved: Option<&SavedResponse>) -> Self {
        let answer = saved.and_then(|saved| {
            Some(CachedAnswer {
                role: saved.role,
                correlation_id: saved.first.correlation_id.as_str().to_owned(),
                trace_id: saved.first.trace.trace_id.to_string(),
                span_id: saved.first.trace.span_id.to_string(),
                status: saved.status,
                etag: saved.etag.map(|etag| etag.0),
                location: saved.location.clone(),
                body: String::from_utf8(saved.body.to_vec()).ok()?,
            })
        });
        // Whose answer it is, not who was at it: after a loss these may be two.
        let fingerprint = saved.map_or_else(|| self.fingerprint.clone(), |saved| encoded(&saved.fingerprint));
        Self { state: State::Done, fingerprint, answer, ..self.clone() }
    }

    /// The bytes to store; an answer that is too large stays in the database only.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Texts and numbers only: serialisation into memory has no way to fail.
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        if bytes.len() > MAX_RECORD && self.answer.is_some() {
            return Self { answer: None, ..self.clone() }.to_bytes();
        }
        bytes
    }
}

impl CachedAnswer {
    pub(super) fn into_saved(self, fingerprint: [u8; 32]) -> Option<SavedResponse> {
        Some(SavedResponse {
            fingerprint,
            role: self.role,
            first: RequestIds {
                correlation_id: CorrelationId::parse(&self.correlation_id)?,
                trace: TraceContext::read(&self.trace_id, &self.span_id),
            },
            status: self.status,
            etag: self.etag.map(EntityTag),
            location: self.location,
            body: Bytes::from(self.body),
        })
    }
}

pub(super) fn encoded(fingerprint: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(fingerprint)
}

/// Legal in KV keys, of fixed length, one user's keys beside each other.
pub(super) fn lease_key(write: &IdempotentRequest) -> String {
    let hash = URL_SAFE_NO_PAD.encode(write.key_hash);
    format!("v1.{}.{}.{hash}", write.organization_id, write.user_id)
}
