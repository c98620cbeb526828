//! What the suites stand on: a real broker, real databases and the real services, each on free ports.

pub mod broker;
pub mod process;
pub mod system;

pub use system::{Answer, Member, System};

use std::future::Future;
use std::time::Duration;

/// Waits until `condition` holds.
///
/// # Panics
/// When it still does not after ten seconds; `what` says what was waited for.
pub async fn eventually<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(tokio::time::Instant::now() < patience, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
