//! A JetStream KV bucket by plain requests to its leader.
//!
//! The library's KV takes one of the two error codes of a lost race for something else, reads from whichever
//! replica is near, and keeps a slot for ever for each request that is not answered.

use std::time::Duration;

use async_nats::HeaderMap;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use contract::Timestamp;
use failpoint::crash_point;
use serde::Deserialize;
use serde_json::json;
use telemetry::span;
use tokio::time::Instant;

use super::provision::{IDEMPOTENCY_BUCKET, KEYS_BUCKET, REVOCATIONS_BUCKET, THROTTLE_BUCKET};
use super::{CallError, RequestClient, headers, metrics};
use crate::key_value::{Entry, KeyValueError, KeyValueStore};

/// How long JetStream may take; beyond it, the caller goes on without.
const TIMEOUT: Duration = Duration::from_millis(300);

/// `wrong last sequence`, and the same found out while another write is on its way to the replicas.
const CONFLICTS: [u64; 2] = [10071, 10164];
/// `no message found`.
const NO_MESSAGE: u64 = 10037;

/// A bucket. Cloning shares the caller.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: RequestClient,
    name: &'static str,
}

/// Which messages a bucket's stream holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Extent {
    pub(super) messages: u64,
    #[serde(rename = "first_seq")]
    pub(super) first: u64,
    #[serde(rename = "last_seq")]
    pub(super) last: u64,
}

/// One message of a bucket's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) entry: Entry,
}

#[derive(Deserialize)]
struct StreamInfo {
    #[serde(default)]
    created: String,
    state: Option<Extent>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    seq: u64,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Stored {
    message: Option<StoredMessage>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    time: Timestamp,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl From<ApiError> for KeyValueError {
    fn from(error: ApiError) -> Self {
        if CONFLICTS.contains(&error.err_code) {
            Self::Conflict
        } else {
            Self::Unavailable(error.description)
        }
    }
}

impl Bucket {
    /// The leases of keyed writes.
    pub fn idempotency(client: RequestClient) -> Self {
        Self { client, name: IDEMPOTENCY_BUCKET }
    }

    /// The public keys that verify access tokens.
    pub fn public_keys(client: RequestClient) -> Self {
        Self { client, name: KEYS_BUCKET }
    }

    /// The failed logins.
    pub fn login_throttle(client: RequestClient) -> Self {
        Self { client, name: THROTTLE_BUCKET }
    }

    /// The access tokens that are not accepted any more.
    pub fn revocations(client: RequestClient) -> Self {
        Self { client, name: REVOCATIONS_BUCKET }
    }

    /// When the stream was created, and which messages it holds.
    pub(super) async fn extent(&self) -> Result<(String, Extent), KeyValueError> {
        let subject = format!("$JS.API.STREAM.INFO.KV_{}", self.name);
        let reply = self.request("info", "", subject, HeaderMap::new(), Bytes::new()).await?;
        let info: StreamInfo = serde_json::from_slice(&reply).map_err(unreadable)?;
        match (info.state, info.error) {
            (Some(extent), None) => Ok((info.created, extent)),
            (_, Some(error)) => Err(error.into()),
            (None, None) => Err(empty()),
        }
    }

    /// The message with this sequence number, unless another one has taken its place.
    pub(super) async fn record(&self, sequence: u64) -> Result<Option<Record>, KeyValueError> {
        self.message("", json!({ "seq": sequence })).await
    }

    /// One message, asked of the leader: a direct read may come from a replica that does not have it yet.
    async fn message(&self, key: &str, wanted: serde_json::Value) -> Result<Option<Record>, KeyValueError> {
        let subject = format!("$JS.API.STREAM.MSG.GET.KV_{}", self.name);
        let reply = self.request("get", key, subject, HeaderMap::new(), wanted.to_string().into()).await?;
        let stored: Stored = serde_json::from_slice(&reply).map_err(unreadable)?;
        match (stored.message, stored.error) {
            (Some(message), _) => {
                let record = STANDARD.decode(&message.data);
                let record = record.map_err(|error| KeyValueError::Unavailable(error.to_string()))?;
                let key = message.subject.strip_prefix(&self.subject("")).unwrap_or_default().to_owned();
                let entry = Entry { record: record.into(), revision: message.seq, written_at: message.time };
                Ok(Some(Record { key, entry }))
            }
            (None, Some(error)) if error.err_code == NO_MESSAGE => Ok(None),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(empty()),
        }
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    async fn request(
        &self,
        operation: &'static str,
        key: &str,
        subject: String,
        map: HeaderMap,
        payload: Bytes,
    ) -> Result<Bytes, KeyValueError> {
        let (span, begun) = (span::key_value(operation, self.name, key), Instant::now());
        let exchange = async {
            let mut pending = self.client.send(subject, map, payload).await?;
            if self.name == IDEMPOTENCY_BUCKET {
                crash_point!("lease-sent");
            }
            Ok::<_, CallError>(pending.reply().await?)
        };
        let result = tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(CallError::TimedOut));
        let failure = result.as_ref().err().map(CallError::name);
        metrics::stored(operation, self.name, begun.elapsed(), failure);
        if let Some(failure) = failure {
            span::fail(&span, failure);
        }
        match result {
            Ok(reply) => Ok(reply.payload),
            Err(CallError::NoResponders) => {
                Err(KeyValueError::Unavailable("the bucket does not exist".to_owned()))
            }
            Err(CallError::TimedOut) => Err(KeyValueError::Unavailable("no answer in time".to_owned())),
            Err(error) => Err(KeyValueError::Unavailable(error.to_string())),
        }
    }
}

fn unreadable(error: serde_json::Error) -> KeyValueError {
    KeyValueError::Unavailable(format!("JetStream's answer cannot be read: {error}"))
}

fn empty() -> KeyValueError {
    KeyValueError::Unavailable("JetStream's answer is empty".to_owned())
}

#[async_trait]
impl KeyValueStore for Bucket {
    async fn read(&self, key: &str) -> Result<Option<Entry>, KeyValueError> {
        let record = self.message(key, json!({ "last_by_subj": self.subject(key) })).await?;
        Ok(record.map(|record| record.entry))
    }

    async fn write(&self, key: &str, record: &[u8], revision: u64) -> Result<u64, KeyValueError> {
        let mut map = HeaderMap::new();
        headers::set(&mut map, headers::EXPECTED_LAST_SUBJECT_SEQUENCE, &revision.to_string());
        let reply = self.request("put", key, self.subject(key), map, Bytes::copy_from_slice(record)).await?;
        let acknowledgement: Acknowledgement = serde_json::from_slice(&reply).map_err(unreadable)?;
        match acknowledgement.error {
            Some(error) => Err(error.into()),
            None => Ok(acknowledgement.seq),
        }
    }
}
