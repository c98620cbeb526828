//! Records that several processes share: one revision per key, and no blind overwrites.

use async_trait::async_trait;
use bytes::Bytes;

use contract::Timestamp;

/// Compare-and-set on one revision per key, read from the leader.
#[async_trait]
pub trait KeyValueStore: Send + Sync + 'static {
    /// The record under `key`, and its revision. A deleted record is `None` with a revision.
    async fn read(&self, key: &str) -> Result<Option<Entry>, KeyValueError>;

    /// Writes `record` if the last revision under `key` is still `revision`; 0 stands for none.
    async fn write(&self, key: &str, record: &[u8], revision: u64) -> Result<u64, KeyValueError>;
}

/// A record as the store returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes that were written; empty when it was deleted.
    pub record: Bytes,
    /// What the next write must name.
    pub revision: u64,
    /// When it was written, by the broker's clock.
    pub written_at: Timestamp,
}

/// Why a record could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// Another writer was first, or is about to be.
    #[error("another writer was faster")]
    Conflict,
    /// There was no answer, or a useless one. A write may have happened.
    #[error("{0}")]
    Unavailable(String),
}
