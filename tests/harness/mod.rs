//! What the suites stand on: a real broker, real databases and the real services, each on free ports.

pub mod broker;
pub mod collector;
pub mod compose;
pub mod pgbouncer;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod stack;
pub mod system;
pub mod walkthrough;

pub use system::{Answer, Database, Member, System, Tables};

use std::future::Future;
use std::time::Duration;

/// Makes a test of each function for each database.
macro_rules! on_both_databases {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::harness::Database::Sqlite).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::harness::Database::Postgres).await;
            })+
        }
    };
}
pub(crate) use on_both_databases;

/// Waits until `condition` holds.
///
/// # Panics
/// When it still does not after half a minute; `what` says what was waited for.
pub async fn eventually<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(tokio::time::Instant::now() < patience, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
