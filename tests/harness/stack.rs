//! The composition's services with one user signed in, for suites that disturb them and watch what clients see.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::time::Instant;

use super::compose::{Compose, Service};
use super::process::program;
use super::system::event;
use super::walkthrough::Visitor;

/// Somebody who does things to this system.
pub const USER: &str = "user@techinnovators.com";

/// A provisioned composition with an auth worker and a gateway.
pub struct Stack {
    pub compose: Compose,
    pub auth: Service,
    pub gateway: Service,
    pub client: Client,
    pub http: String,
    /// The gateway's admin port.
    pub admin: String,
    pub token: String,
}

/// An answer, and how long it took.
#[derive(Debug)]
pub struct Timed {
    pub status: u16,
    pub took: Duration,
    pub retry_after: Option<u64>,
    pub replayed: bool,
    pub body: Value,
}

/// Variables beside the composition's.
pub type Settings<'a> = &'a [(&'a str, String)];

impl Stack {
    /// Starts one whose gateway is told `settings` besides what the composition says.
    pub async fn start(settings: Settings<'_>) -> Self {
        Self::on(Compose::start().await, settings).await
    }

    /// Starts one on a composition that runs already.
    pub async fn on(compose: Compose, settings: Settings<'_>) -> Self {
        assert!(compose.run("provision").await, "provisioning fails");
        let auth = compose.up("auth-worker").await;
        let gateway = compose.up_as("gateway", &program("gateway").await, settings).await;
        let (http, admin) = (gateway.http().await, gateway.admin().await);
        let token = Visitor::new(&http).login(USER).await;
        Self { compose, auth, gateway, client: Client::new(), http, admin, token }
    }

    /// Starts an events worker that is told `settings` besides what the composition says.
    pub async fn events_worker(&self, settings: Settings<'_>) -> Service {
        self.compose.up_as("events-worker", &program("events-worker").await, settings).await
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.http)).bearer_auth(&self.token)
    }

    /// A request for an event that does not exist: the cheapest there is.
    pub fn look_up(&self) -> RequestBuilder {
        self.get(&format!("/events/{}", uuid::Uuid::now_v7()))
    }

    pub fn create(&self, title: &str) -> RequestBuilder {
        self.client.post(format!("{}/events", self.http)).bearer_auth(&self.token).json(&event(title))
    }

    /// The gateway's health.
    pub async fn health(&self) -> Value {
        timed(self.client.get(format!("{}/health", self.http))).await.body
    }

    /// The status of one of the gateway's checks.
    pub async fn check(&self, name: &str) -> String {
        self.health().await["checks"][name]["status"].as_str().unwrap_or("absent").to_owned()
    }

    /// The gateway's metrics.
    pub async fn metrics(&self) -> String {
        self.client.get(format!("{}/metrics", self.admin)).send().await.unwrap().text().await.unwrap()
    }

    /// Whether requests for events are answered by a worker.
    pub async fn works(&self) -> bool {
        timed(self.look_up()).await.status == 404
    }
}

/// Sends a request and waits for its answer.
pub async fn timed(request: RequestBuilder) -> Timed {
    let begun = Instant::now();
    let response = request.send().await.expect("an answer");
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let retry_after = header("retry-after").and_then(|value| value.parse().ok());
    let replayed = header("idempotent-replayed").is_some();
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Timed { status, took: begun.elapsed(), retry_after, replayed, body }
}

/// The middle one.
pub fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers and times have an order"));
    values[values.len() / 2]
}

impl Service {
    /// The address of the admin port.
    pub async fn admin(&self) -> String {
        format!("http://{}", self.process.ready_line().await["admin"].as_str().expect("its admin address"))
    }

    /// Holds the process where it is until [`Service::resume`].
    pub fn pause(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.process.signal(Signal::SIGCONT);
    }
}
