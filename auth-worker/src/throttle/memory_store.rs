//! Tallies of one worker alone.

use async_trait::async_trait;
use bytes::Bytes;
use contract::Timestamp;
use messaging::key_value::{Entry, KeyValueError, KeyValueStore};
use parking_lot::Mutex;
use quick_cache::unsync::Cache;

/// Tallies that are kept; the least used ones are forgotten first.
const CAPACITY: usize = 30_000;

/// Records in memory.
pub(super) struct MemoryStore(Mutex<Cache<String, Entry>>);

impl Default for MemoryStore {
    fn default() -> Self {
        Self(Mutex::new(Cache::new(CAPACITY)))
    }
}

#[async_trait]
impl KeyValueStore for MemoryStore {
    async fn read(&self, key: &str) -> Result<Option<Entry>, KeyValueError> {
        let records = self.0.lock();
        Ok(records.get(key).cloned())
    }

    async fn write(&self, key: &str, record: &[u8], revision: u64) -> Result<u64, KeyValueError> {
        let mut records = self.0.lock();
        if records.get(key).map_or(0, |entry| entry.revision) != revision {
            return Err(KeyValueError::Conflict);
        }
        let entry = Entry {
            record: Bytes::copy_from_slice(record),
            revision: revision + 1,
            written_at: Timestamp::now(),
        };
        records.insert(key.to_owned(), entry);
        Ok(revision + 1)
    }
}
