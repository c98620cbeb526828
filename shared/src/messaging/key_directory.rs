//! The public keys in JetStream KV: published by the auth worker, followed by everyone else.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::Store;
use tokio::sync::Notify;

use super::Connection;
use super::provision::{KEYS_BUCKET, jetstream};
use crate::identity::PublicKeys;

const JWKS: &str = "jwks";

/// How often the directory is looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often while there is nothing to go on with.
const INTERVAL_WHILE_UNKNOWN: Duration = Duration::from_millis(100);
/// Unknown key ids in tokens make readers look again, but not more often than this.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Reads and writes the published keys.
#[derive(Debug, Clone)]
pub struct KeyDirectory {
    connection: Connection,
}

/// Why the directory could not be read or written.
#[derive(Debug, thiserror::Error)]
enum KeyDirectoryError {
    /// The bucket is missing or cannot be reached.
    #[error("the bucket of public keys cannot be reached: {0}")]
    Bucket(#[from] async_nats::jetstream::context::KeyValueError),
    /// The entry could not be read.
    #[error("the public keys cannot be read: {0}")]
    Read(#[from] async_nats::jetstream::kv::EntryError),
    /// The entry could not be written.
    #[error("the public keys cannot be written: {0}")]
    Write(#[from] async_nats::jetstream::kv::PutError),
}

impl KeyDirectory {
    /// The directory reached over `connection`.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    async fn bucket(&self) -> Result<Store, KeyDirectoryError> {
        Ok(jetstream(&self.connection).get_key_value(KEYS_BUCKET).await?)
    }

    /// Makes `document` the published one, unless it is already.
    async fn publish(&self, document: &str) -> Result<(), KeyDirectoryError> {
        let bucket = self.bucket().await?;
        if bucket.get(JWKS).await?.is_none_or(|published| published != document.as_bytes()) {
            bucket.put(JWKS, document.to_owned().into()).await?;
            tracing::info!("published the public keys");
        }
        Ok(())
    }

    /// Publishes `document`, and again whenever it is lost. Tells `published` each time it is there.
    pub async fn keep_published(&self, document: &str, published: &Notify) -> ! {
        let mut interval = INTERVAL_WHILE_UNKNOWN;
        let mut complained = false;
        loop {
            if self.connection.is_connected() {
                match self.publish(document).await {
                    Ok(()) => {
                        published.notify_one();
                        (interval, complained) = (INTERVAL, false);
                    }
                    Err(error) if !complained => {
                        tracing::warn!(%error, "cannot publish the public keys; has `eventboard provision` run?");
                        complained = true;
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Keeps `keys` equal to the published ones. What is known stays known when the directory is lost.
    pub async fn follow(&self, keys: Arc<PublicKeys>) -> ! {
        let mut said = false;
        loop {
            if let Err(error) = self.read_into(&keys).await {
                tracing::debug!(%error, "could not read the public keys");
            }
            if !said && !keys.are_known() {
                tracing::info!("waiting for the public keys of the auth worker");
                said = true;
            }
            let interval = if keys.are_known() { INTERVAL } else { INTERVAL_WHILE_UNKNOWN };
            let requested = async {
                tokio::time::sleep(MIN_INTERVAL).await;
                keys.refresh_requested().await;
            };
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = requested => {}
            }
        }
    }

    async fn read_into(&self, keys: &PublicKeys) -> Result<(), KeyDirectoryError> {
        if let Some(document) = self.bucket().await?.get(JWKS).await?
            && let Err(error) = keys.replace(&String::from_utf8_lossy(&document))
        {
            tracing::error!(%error, "the published keys are not usable");
        }
        Ok(())
    }
}
