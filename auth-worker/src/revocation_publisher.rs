//! Publishes which access tokens are not accepted any more. The database is the truth: what was committed
//! and not published, because a worker or the broker ended, is published by the next look.

use std::collections::HashSet;
use std::time::Duration;

use contract::Timestamp;
use database::StoreError;
use identity::revocations::{REVOCATION_SECONDS, Revocation};
use messaging::RevocationBucket;
use messaging::key_value::KeyValueError;
use telemetry::health::Health;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::AuthStore;

/// Between two looks while nothing is known to be new: what another worker could not publish is published by then.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the database may take over one. A link that was cut without a word would never say so.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How far a look goes back behind the one before it, in seconds: further than a transaction takes, and than
/// clocks are apart.
const OVERLAP_SECONDS: i64 = 30;
/// How often everything is published again that the bucket lacks, whatever became of it.
const FULL_INTERVAL: Duration = Duration::from_secs(60);
/// What `/health` calls it.
const CHECK: &str = "revocations-told";

/// Why nothing could be published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("the database did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bucket(#[from] KeyValueError),
}

/// What has been published until now.
#[derive(Default)]
struct Published {
    /// What the bucket holds of what was found last time.
    written: HashSet<Revocation>,
    /// When the last look began that published everything it found; `None` makes the next one go back all the way.
    until: Option<Timestamp>,
    losses: u64,
}

/// Publishes what is revoked, whenever `revoked` is notified and now and then.
pub(crate) async fn publish(
    store: &AuthStore,
    bucket: &RevocationBucket,
    revoked: &Notify,
    health: &Health,
) -> ! {
    let mut published = Published::default();
    let mut full = Instant::now();
    let mut complained = false;
    loop {
        let began = Instant::now();
        let losses = bucket.losses();
        if losses != published.losses || began >= full {
            published = Published { losses, ..Published::default() };
            full = began + FULL_INTERVAL;
        }
        let outcome = publish_since(store, bucket, &mut published, Timestamp::now()).await;
        if let Err(error) = &outcome
            && !complained
        {
            tracing::warn!(%error, "cannot tell which tokens are revoked");
        }
        complained = outcome.is_err();
        let seen = outcome.map(|()| None).map_err(|_| "cannot be told".to_owned());
        health.observe(CHECK, began.elapsed(), seen);
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = revoked.notified() => {}
        }
    }
}

async fn publish_since(
    store: &AuthStore,
    bucket: &RevocationBucket,
    published: &mut Published,
    now: Timestamp,
) -> Result<(), PublishError> {
    let since = published
        .until
        .map_or(now.plus_seconds(-REVOCATION_SECONDS), |until| until.plus_seconds(-OVERLAP_SECONDS));
    let found = tokio::time::timeout(LOOK_TIMEOUT, store.revocations(since)).await;
    let found = found.map_err(|_| PublishError::TimedOut)??;
    let known: HashSet<_> = found.iter().copied().collect();
    published.written.retain(|revocation| known.contains(revocation));
    bucket.publish(&found, &mut published.written).await?;
    published.until = Some(now);
    Ok(())
}
