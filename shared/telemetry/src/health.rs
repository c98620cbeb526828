//! What was last seen of everything a process depends on: checked in the background, reported from memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use contract::Timestamp;

/// Between two looks at a dependency.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one check may take. What is reported is therefore never older than two seconds.
pub const DEPENDENCY_TIMEOUT: Duration = Duration::from_millis(900);

/// Whether something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It does.
    Pass,
    /// Partly.
    Warn,
    /// It does not.
    Fail,
}

/// The last look at one dependency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What it came to.
    pub status: Status,
    /// How long the answer took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// When it was looked at.
    pub observed_at: Timestamp,
    /// What is wrong, or noteworthy.
    pub detail: Option<String>,
}

/// Everything that was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `fail` when something vital fails, `warn` when anything else does.
    pub status: Status,
    /// Each dependency by its name.
    pub checks: BTreeMap<String, Check>,
}

/// The health of a process. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Health {
    vital: &'static [&'static str],
    checks: Arc<watch::Sender<BTreeMap<String, Check>>>,
}

impl Health {
    /// Nothing is known yet. Without one of the `vital` dependencies the process can do nothing at all.
    pub fn new(vital: &'static [&'static str]) -> Self {
        Self { vital, checks: Arc::default() }
    }

    /// Notes how a look at `name` ended: with a detail, or with what is wrong.
    pub fn observe(&self, name: &str, took: Duration, seen: Result<Option<String>, String>) {
        let check = match seen {
            Ok(detail) => {
                let latency_ms = Some(took.as_secs_f64() * 1000.0);
                Check { status: Status::Pass, latency_ms, observed_at: Timestamp::now(), detail }
            }
            Err(detail) => Check {
                status: Status::Fail,
                latency_ms: None,
                observed_at: Timestamp::now(),
                detail: Some(detail),
            },
        };
        self.set(name, check);
    }

    /// Notes a check that was made elsewhere.
    pub fn set(&self, name: &str, check: Check) {
        self.checks.send_modify(|checks| drop(checks.insert(name.to_owned(), check)));
    }

    /// Looks at `name` again and again.
    pub async fn watch<E: std::fmt::Display, F>(&self, name: &str, look: impl Fn() -> F) -> !
    where
        F: Future<Output = Result<Option<String>, E>>,
    {
        loop {
            let begun = Instant::now();
            let seen = match tokio::time::timeout(DEPENDENCY_TIMEOUT, look()).await {
                Ok(seen) => seen.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            self.observe(name, begun.elapsed(), seen);
            tokio::time::sleep_until(begun + INTERVAL).await;
        }
    }

    /// Checks the database once a second. `/health` is public: what `ping` fails with is shown there, its source
    /// only in the log.
    pub async fn watch_database<E: std::error::Error, F>(&self, ping: impl Fn() -> F) -> !
    where
        F: Future<Output = Result<(), E>>,
    {
        let look = || async {
            let answer = ping().await.inspect_err(|error| {
                let source = error.source().map(ToString::to_string);
                tracing::debug!(%error, source, "the database does not pass its check");
            });
            answer.map(|()| None)
        };
        self.watch("database", look).await
    }

    /// Waits until everything vital has been looked at: a client that learns that this process is ready may ask at once.
    pub async fn looked_at(&self) {
        let mut checks = self.checks.subscribe();
        // Fails only without a sender, and `self` has it.
        let _ = checks.wait_for(|checks| self.vital.iter().all(|name| checks.contains_key(*name))).await;
    }

    /// The last look at `name`.
    pub fn check(&self, name: &str) -> Option<Check> {
        self.checks.borrow().get(name).cloned()
    }

    /// Everything that was seen.
    pub fn report(&self) -> Report {
        let mut checks = self.checks.borrow().clone();
        for name in self.vital {
            checks.entry((*name).to_owned()).or_insert_with(|| Check {
                status: Status::Fail,
                latency_ms: None,
                observed_at: Timestamp::now(),
                detail: Some("not looked at yet".to_owned()),
            });
        }
        let worst = |name: &String, check: &Check| match check.status {
            Status::Fail if !self.vital.contains(&name.as_str()) => Status::Warn,
            status => status,
        };
        let status = checks.iter().map(|(name, check)| worst(name, check)).max().unwrap_or(Status::Pass);
        Report { status, checks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_vital_fails_the_whole_and_the_rest_is_a_warning() {
        let health = Health::new(&["broker"]);
        let ok = |health: &Health, name| health.observe(name, Duration::from_millis(2), Ok(None));
        let bad = |health: &Health, name| health.observe(name, Duration::ZERO, Err("away".to_owned()));
        assert_eq!(health.report().status, Status::Fail, "there was no look yet");
        ok(&health, "broker");
        ok(&health, "worker");
        assert_eq!(health.report().status, Status::Pass);
        assert_eq!(health.check("broker").unwrap().latency_ms, Some(2.0));
        bad(&health, "worker");
        assert_eq!(health.report().status, Status::Warn);
        assert_eq!(health.report().checks["worker"].detail.as_deref(), Some("away"));
        bad(&health, "broker");
        assert_eq!(health.report().status, Status::Fail);
    }
}
