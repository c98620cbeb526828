//! A client that repeats writes that were not acknowledged, and sometimes those that were.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rand::RngExt;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use service::demo;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::REQUEST_TIMEOUT;
use crate::checker::{Answered, Found, Write, is_final_refusal};

/// Every title of this run begins so.
const TITLE: &str = "chaos-";

/// A client that repeats writes that were not acknowledged, and sometimes those that were.
pub(crate) struct ChaosClient {
    pub(crate) client: Client,
    pub(crate) gateways: Vec<String>,
    pub(crate) number: usize,
    pub(crate) token: String,
    pub(crate) answers: Arc<Mutex<Vec<Answered>>>,
    pub(crate) settled: CancellationToken,
}

impl ChaosClient {
    /// Writes until `stop`, finishes what it has begun, and returns how many writes that were.
    pub(crate) async fn visit(mut self, stop: CancellationToken) -> anyhow::Result<usize> {
        self.login().await?;
        let mut writes = 0;
        for round in 0.. {
            if stop.is_cancelled() {
                break;
            }
            let title = format!("{TITLE}{}-{round}", self.number);
            let event = json!({
                "title": title,
                "description": "Test",
                "startDate": "2026-06-01T10:00:00Z",
                "endDate": "2026-06-01T12:00:00Z",
            });
            let Some(created) = self.write(&title, Write::Create, "/events", &event).await? else { break };
            writes += 1;
            let event: Value = serde_json::from_str(&created.body).context("an event that is no JSON")?;
            let path = format!("/events/{}/submit", event["id"].as_str().unwrap_or_default());
            if self.write(&title, Write::Submit, &path, &Value::Null).await?.is_none() {
                break;
            }
            writes += 1;
        }
        Ok(writes)
    }

    /// Sends a write until it is answered for good; `None` when it never is.
    async fn write(
        &mut self,
        title: &str,
        write: Write,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Option<Answered>> {
        let key = format!("{title}-{write:?}");
        while !self.settled.is_cancelled() {
            // Two at once, through whichever gateways, as an impatient client does.
            let (one, other) =
                (self.send(title, write, &key, path, body), self.send(title, write, &key, path, body));
            let twice = rand::rng().random_bool(0.2);
            let (first, second) = tokio::join!(one, async { if twice { other.await } else { None } });
            // Both, before either decides what comes next: the checker compares them.
            let answered: Vec<Answered> = [first, second].into_iter().flatten().collect();
            self.answers.lock().extend(answered.iter().cloned());
            if answered.iter().any(is_final_refusal) {
                return Ok(None);
            }
            if let Some(done) = answered.iter().find(|answer| answer.status < 300) {
                // Now and then, an acknowledged write is sent again.
                if rand::rng().random_bool(0.2)
                    && let Some(again) = self.send(title, write, &key, path, body).await
                {
                    self.answers.lock().push(again);
                }
                return Ok(Some(done.clone()));
            }
            if answered.iter().any(|answer| answer.status == 401) {
                self.login().await?;
            }
            let pause = Duration::from_millis(rand::rng().random_range(20..150));
            tokio::time::sleep(pause).await;
        }
        Ok(None)
    }

    async fn send(&self, title: &str, write: Write, key: &str, path: &str, body: &Value) -> Option<Answered> {
        let gateway = &self.gateways[rand::rng().random_range(0..self.gateways.len())];
        let request = self.client.post(format!("{gateway}{path}")).bearer_auth(&self.token);
        let request = request.header("Idempotency-Key", key);
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await.ok()?;
        let (status, replayed) =
            (answer.status().as_u16(), answer.headers().contains_key("idempotent-replayed"));
        // A body that broke off is no answer.
        let body = answer.text().await.ok()?;
        Some(Answered { title: title.to_owned(), write, status, replayed, body })
    }

    async fn login(&mut self) -> anyhow::Result<()> {
        self.token = login(&self.client, &self.gateways, &self.settled, "user@acme.com").await?;
        Ok(())
    }
}

async fn login(
    client: &Client,
    gateways: &[String],
    settled: &CancellationToken,
    email: &str,
) -> anyhow::Result<String> {
    let credentials = json!({ "email": email, "password": demo::PASSWORD });
    for attempt in 0.. {
        if settled.is_cancelled() {
            break;
        }
        let gateway = &gateways[attempt % gateways.len()];
        if let Ok(answer) = client.post(format!("{gateway}/auth/login")).json(&credentials).send().await
            && let Ok(body) = answer.json::<Value>().await
            && let Some(token) = body["accessToken"].as_str()
        {
            return Ok(token.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("no client could sign in")
}

/// Every event of this run that is there, with its history.
pub(crate) async fn everything(client: &Client, gateway: &str) -> anyhow::Result<Vec<Found>> {
    let settled = CancellationToken::new();
    let token = login(client, &[gateway.to_owned()], &settled, "admin@acme.com").await?;
    let get = async |path: String| {
        let patience = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let answer = client.get(format!("{gateway}{path}")).bearer_auth(&token).send().await?;
            // A worker may only just have been started.
            if answer.status() != StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= patience {
                return anyhow::Ok(answer.error_for_status()?.json::<Value>().await?);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (mut found, mut path) = (Vec::new(), "/events?limit=100".to_owned());
    loop {
        let page = get(path).await?;
        for event in page["data"].as_array().into_iter().flatten() {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            if !text("title").starts_with(TITLE) {
                continue;
            }
            let history = get(format!("/events/{}/history", text("id"))).await?;
            let actions = history["data"].as_array().into_iter().flatten();
            let actions = actions.filter_map(|entry| entry["action"].as_str().map(str::to_owned)).collect();
            found.push(Found { title: text("title"), id: text("id"), actions });
        }
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => path = format!("/events?limit=100&cursor={cursor}"),
            None => return Ok(found),
        }
    }
}
