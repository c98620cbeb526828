//! `/health`: the gateway's dependencies, looked at in the background and answered from memory.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use shared::contract::{Timestamp, auth, events};
use shared::messaging::Caller;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Between two looks. An answer is never older than this and one [`PING_TIMEOUT`].
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a worker may take to answer.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// The last look at every dependency.
#[derive(Debug, Clone)]
pub(crate) struct Health(watch::Receiver<Value>);

impl Health {
    /// The sender for [`watch_dependencies`], and the receiver that answers requests.
    pub(crate) fn channel() -> (watch::Sender<Value>, Self) {
        let (sender, receiver) = watch::channel(json!({ "status": "warn", "checks": {} }));
        (sender, Self(receiver))
    }

    /// The answer to `/health`: 503 only when nothing works.
    pub(crate) fn answer(&self) -> (StatusCode, Json<Value>) {
        let report = self.0.borrow().clone();
        let code = if report["status"] == "fail" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        (code, Json(report))
    }
}

/// Looks at every dependency again and again until `shutdown`.
pub(crate) async fn watch_dependencies(
    caller: Caller,
    seen: watch::Sender<Value>,
    shutdown: CancellationToken,
) {
    loop {
        let looks = async {
            let (auth, events) = tokio::join!(
                caller.ping(auth::SERVICE, PING_TIMEOUT),
                caller.ping(events::SERVICE, PING_TIMEOUT)
            );
            seen.send_replace(report(caller.is_ready(), [("auth-worker", auth), ("events-worker", events)]));
            tokio::time::sleep(INTERVAL).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = looks => {}
        }
    }
}

/// A dead broker is `fail`; a dead worker is `warn`: the other one's requests still work.
fn report(connected: bool, workers: [(&str, Option<Duration>); 2]) -> Value {
    let observed_at = Timestamp::now().to_string();
    let check = |pass: bool, latency: Option<Duration>, detail: &str| {
        json!({
            "status": if pass { "pass" } else { "fail" },
            "latencyMs": latency.map(|latency| latency.as_secs_f64() * 1000.0),
            "observedAt": observed_at,
            "detail": if pass { Value::Null } else { Value::from(detail) },
        })
    };
    let mut checks = Map::new();
    checks.insert("broker".to_owned(), check(connected, None, "not connected"));
    for (name, latency) in workers {
        checks.insert(name.to_owned(), check(latency.is_some(), latency, "does not answer"));
    }
    let status = match (connected, workers.iter().all(|(_, latency)| latency.is_some())) {
        (false, _) => "fail",
        (true, false) => "warn",
        (true, true) => "pass",
    };
    json!({ "status": status, "checks": checks })
}
