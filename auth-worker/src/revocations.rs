//! Tells everybody which access tokens are not accepted any more. The database is the truth: what was committed
//! and not told, because a worker or the broker ended, is told by the next look.

use std::collections::HashSet;
use std::time::Duration;

use shared::contract::Timestamp;
use shared::messaging::RevocationBucket;
use shared::revocations::REVOCATION_SECONDS;
use tokio::sync::Notify;

use crate::store::AuthStore;

/// Between two looks while nothing is known to be new: what another worker could not tell is told by then.
const INTERVAL: Duration = Duration::from_millis(500);
/// How far back a look goes, in seconds: further than a transaction takes, and than clocks are apart.
const OVERLAP_SECONDS: i64 = 30;

/// Tells what is revoked, whenever `revoked` is notified and now and then.
pub(crate) async fn publish(store: &dyn AuthStore, bucket: &RevocationBucket, revoked: &Notify) -> ! {
    let mut written = HashSet::new();
    let mut losses = None;
    let mut complained = false;
    loop {
        let current = bucket.losses();
        let since = if losses == Some(current) {
            OVERLAP_SECONDS
        } else {
            written.clear();
            REVOCATION_SECONDS
        };
        let published = async {
            let found = store.revocations(Timestamp::now().plus_seconds(-since)).await?;
            let found: HashSet<_> = found.into_iter().collect();
            written.retain(|revocation| found.contains(revocation));
            Ok::<_, anyhow::Error>(bucket.publish(found, &mut written).await?)
        };
        match published.await {
            Ok(()) => (losses, complained) = (Some(current), false),
            Err(error) if !complained => {
                tracing::warn!(%error, "cannot tell which tokens are revoked");
                complained = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = revoked.notified() => {}
        }
    }
}
