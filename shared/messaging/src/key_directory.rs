//! The public keys in JetStream KV: published by the auth worker, followed by everyone else.

use std::time::Duration;

use identity::PublicKeys;

use super::{Bucket, RequestClient};
use crate::key_value::{KeyValueError, KeyValueStore};

const JWKS: &str = "jwks";

/// How often the directory is looked at. A key that is withdrawn verifies for so long.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often while there is nothing to go on with.
const INTERVAL_WHILE_UNKNOWN: Duration = Duration::from_millis(20);

/// Reads and writes the published keys.
#[derive(Debug)]
pub struct KeyDirectory {
    bucket: Bucket,
}

impl KeyDirectory {
    /// The directory reached by `client`.
    pub fn new(client: RequestClient) -> Self {
        Self { bucket: Bucket::public_keys(client) }
    }

    /// Makes `document` the published one, unless it is already.
    ///
    /// # Errors
    /// [`KeyValueError`].
    pub async fn publish(&self, document: &str) -> Result<(), KeyValueError> {
        let published = self.bucket.read(JWKS).await?;
        if published.as_ref().is_none_or(|published| published.record != document) {
            let revision = published.map_or(0, |published| published.revision);
            self.bucket.write(JWKS, document.as_bytes(), revision).await?;
            tracing::info!("published the public keys");
        }
        Ok(())
    }

    /// Keeps `keys` equal to the published ones. What is known stays known when the directory is lost.
    pub async fn follow(&self, keys: &PublicKeys) -> ! {
        let mut said = false;
        loop {
            if let Err(error) = self.read_into(keys).await {
                tracing::debug!(%error, "could not read the public keys");
            }
            if !said && !keys.are_known() {
                tracing::info!("waiting for the public keys of the auth worker");
                said = true;
            }
            let interval = if keys.are_known() { INTERVAL } else { INTERVAL_WHILE_UNKNOWN };
            tokio::time::sleep(interval).await;
        }
    }

    async fn read_into(&self, keys: &PublicKeys) -> Result<(), KeyValueError> {
        if let Some(published) = self.bucket.read(JWKS).await?
            && let Err(error) = keys.replace(&String::from_utf8_lossy(&published.record))
        {
            tracing::error!(%error, "the published keys are not usable");
        }
        Ok(())
    }
}
