//! What is done to old rows, a few at a time: answers that are past their promised time are forgotten, texts that an
//! earlier version has folded are folded anew.

use std::time::Duration;

use contract::Timestamp;
use database::StoreError;
use tokio::time::Instant;

use crate::store::EventStore;

/// How long answers are saved, in seconds: longer than the leases in JetStream, which point to them.
const RETENTION_SECONDS: i64 = 72 * 60 * 60;
/// Answers removed in one transaction, so that no writer waits long for it.
const BATCH: i64 = 500;
/// Between two transactions while there is more to remove.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks when there is nothing more.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long one transaction may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Removes what is too old, again and again. Several workers do not disturb each other.
pub(crate) async fn forget_answers(store: &dyn EventStore) -> ! {
    loop {
        let before = Timestamp::now().plus_seconds(-RETENTION_SECONDS);
        // The server gives a statement up in time; one that is gone cannot say so.
        let forgetting = store.forget_answers(before, BATCH, Instant::now() + TIMEOUT);
        let forgotten = tokio::time::timeout(2 * TIMEOUT, forgetting).await;
        let pause = match forgotten.unwrap_or(Err(StoreError::Expired)) {
            Ok(count) if i64::try_from(count).is_ok_and(|count| count == BATCH) => PAUSE,
            Ok(_) => INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "could not remove old answers");
                INTERVAL
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Folds texts anew, until none is left that an earlier version has written; a worker of that version may write more.
pub(crate) async fn fold_texts(store: &dyn EventStore) -> ! {
    loop {
        let folding = store.fold_texts(BATCH, Instant::now() + TIMEOUT);
        let folded = tokio::time::timeout(2 * TIMEOUT, folding).await;
        let pause = match folded.unwrap_or(Err(StoreError::Expired)) {
            Ok(0) => INTERVAL,
            Ok(count) => {
                tracing::info!(count, "folded the texts of events anew");
                PAUSE
            }
            Err(error) => {
                tracing::warn!(%error, "could not fold texts anew");
                INTERVAL
            }
        };
        tokio::time::sleep(pause).await;
    }
}
