//! Leases of keyed writes in a JetStream KV bucket.
//!
//! Written and read by plain requests, not by the library's KV: it takes one of the two error codes of a lost
//! race for something else, and reads from whichever replica is near.

use std::time::Duration;

use async_nats::HeaderMap;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::provision::IDEMPOTENCY_BUCKET;
use super::{CallError, Caller, headers};
use crate::contract::Timestamp;
use crate::crash_point;
use crate::idempotency::{Entry, LeaseError, LeaseStore};

/// How long the store may take; beyond it, a write goes on without a lease.
const TIMEOUT: Duration = Duration::from_millis(300);

/// `wrong last sequence`, and the same found out while another write is on its way to the replicas.
const CONFLICTS: [u64; 2] = [10071, 10164];
/// `no message found`.
const NO_MESSAGE: u64 = 10037;

/// The bucket of leases.
#[derive(Debug)]
pub struct LeaseBucket {
    caller: Caller,
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

impl From<ApiError> for LeaseError {
    fn from(error: ApiError) -> Self {
        if CONFLICTS.contains(&error.err_code) {
            Self::Conflict
        } else {
            Self::Unavailable(error.description)
        }
    }
}

impl LeaseBucket {
    /// The bucket that `caller` reaches.
    pub fn new(caller: Caller) -> Self {
        Self { caller }
    }

    async fn request(&self, subject: String, map: HeaderMap, payload: Bytes) -> Result<Bytes, LeaseError> {
        let exchange = async {
            let mut pending = self.caller.send(subject, map, payload).await?;
            crash_point!("lease-sent");
            Ok::<_, CallError>(pending.reply().await?)
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(Ok(reply)) => Ok(reply.payload),
            Ok(Err(CallError::NoResponders)) => {
                Err(LeaseError::Unavailable("the bucket does not exist".to_owned()))
            }
            Ok(Err(error)) => Err(LeaseError::Unavailable(error.to_string())),
            Err(_) => Err(LeaseError::Unavailable("no answer in time".to_owned())),
        }
    }
}

fn unreadable(error: serde_json::Error) -> LeaseError {
    LeaseError::Unavailable(format!("JetStream's answer cannot be read: {error}"))
}

#[async_trait]
impl LeaseStore for LeaseBucket {
    async fn read(&self, key: &str) -> Result<Option<Entry>, LeaseError> {
        // Through the leader: a direct read may come from a replica that does not have it yet.
        let subject = format!("$JS.API.STREAM.MSG.GET.KV_{IDEMPOTENCY_BUCKET}");
        let wanted = json!({ "last_by_subj": format!("$KV.{IDEMPOTENCY_BUCKET}.{key}") });
        let reply = self.request(subject, HeaderMap::new(), wanted.to_string().into()).await?;
        let stored: Stored = serde_json::from_slice(&reply).map_err(unreadable)?;
        match (stored.message, stored.error) {
            (Some(message), _) => {
                let record = STANDARD.decode(&message.data);
                let record = record.map_err(|error| LeaseError::Unavailable(error.to_string()))?;
                Ok(Some(Entry { record: record.into(), revision: message.seq, written_at: message.time }))
            }
            (None, Some(error)) if error.err_code == NO_MESSAGE => Ok(None),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(LeaseError::Unavailable("JetStream's answer is empty".to_owned())),
        }
    }

    async fn write(&self, key: &str, record: &[u8], revision: u64) -> Result<u64, LeaseError> {
        let mut map = HeaderMap::new();
        headers::set(&mut map, headers::EXPECTED_LAST_SUBJECT_SEQUENCE, &revision.to_string());
        let subject = format!("$KV.{IDEMPOTENCY_BUCKET}.{key}");
        let reply = self.request(subject, map, Bytes::copy_from_slice(record)).await?;
        let acknowledgement: Acknowledgement = serde_json::from_slice(&reply).map_err(unreadable)?;
        match acknowledgement.error {
            Some(error) => Err(error.into()),
            None => Ok(acknowledgement.seq),
        }
    }
}
