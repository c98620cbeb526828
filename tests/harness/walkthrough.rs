//! The documented walkthrough, as a client of any running system goes through it.

use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Where to, and how patiently.
pub struct Visitor {
    pub client: Client,
    pub http: String,
    /// How long a request is repeated whose answer says that it may be.
    pub patience: Duration,
}

/// What the walkthrough made.
pub struct Walked {
    pub id: String,
    pub token: String,
}

/// An answer's status, correlation id and body.
pub type Answer = (u16, String, Value);

/// The key of the documented walkthrough; it names one submission for good.
pub const DOCUMENTED_KEY: &str = "submit-123";

impl Visitor {
    /// A visitor of `http`, the base URL of a gateway, who expects everything to work at once.
    pub fn new(http: &str) -> Self {
        Self { client: Client::new(), http: http.to_owned(), patience: Duration::ZERO }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let patience = Instant::now() + self.patience;
        loop {
            let response = request.try_clone().expect("a body in memory").send().await.expect("an answer");
            let status = response.status().as_u16();
            let id = response.headers()["x-correlation-id"].to_str().unwrap().to_owned();
            let body = response.text().await.expect("a body");
            let body: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
            if body["retryable"] != true || Instant::now() >= patience {
                return (status, id, body);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(self.client.get(format!("{}{path}", self.http)).bearer_auth(token)).await
    }

    pub async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        let request = self.client.post(format!("{}{path}", self.http)).bearer_auth(token);
        self.send(if body.is_null() { request } else { request.json(body) }).await
    }

    /// Signs in a demo user and returns the access token.
    pub async fn login(&self, email: &str) -> String {
        let credentials = json!({ "email": email, "password": "Password123!" });
        let request = self.client.post(format!("{}/auth/login", self.http)).json(&credentials);
        let (status, _, body) = self.send(request).await;
        assert_eq!(status, 200, "{body}");
        body["accessToken"].as_str().expect("accessToken at the top level").to_owned()
    }

    /// Drafts an event and returns its id.
    pub async fn create(&self, token: &str) -> String {
        let event = json!({
            "title": "Test",
            "description": "Test",
            "startDate": "2026-06-01T10:00:00Z",
            "endDate": "2026-06-01T12:00:00Z",
        });
        let (status, _, created) = self.post("/events", token, &event).await;
        assert_eq!(status, 201, "{created}");
        created["id"].as_str().expect("id at the top level").to_owned()
    }

    /// The walkthrough with a key of its own, for systems that have seen it before.
    pub async fn walk(&self) -> Walked {
        self.walk_with(&format!("submit-{}", uuid::Uuid::now_v7())).await
    }

    /// Signs in everybody, drafts, submits as request `test-123` and once more with the same key, approves,
    /// and reads the history.
    pub async fn walk_with(&self, key: &str) -> Walked {
        self.login("admin@acme.com").await;
        self.login("user@techinnovators.com").await;
        let (token, moderator) = (self.login("user@acme.com").await, self.login("moderator@acme.com").await);
        let id = self.create(&token).await;
        let submit = self.client.post(format!("{}/events/{id}/submit", self.http)).bearer_auth(&token);
        let submit = submit.header("Idempotency-Key", key);
        let first = submit.try_clone().expect("no body").header("X-Correlation-ID", "test-123");
        let (status, correlation_id, submitted) = self.send(first).await;
        assert_eq!((status, correlation_id.as_str()), (200, "test-123"), "{submitted}");
        assert_eq!(submitted["status"], "SUBMITTED");
        let again = self.send(submit).await;
        assert_eq!((again.0, &again.2), (200, &submitted), "the same key, another answer");
        let (status, _, approved) =
            self.post(&format!("/events/{id}/approve"), &moderator, &Value::Null).await;
        assert_eq!((status, &approved["status"]), (200, &json!("APPROVED")), "{approved}");
        self.has_walked(&Walked { id: id.clone(), token: token.clone() }).await;
        Walked { id, token }
    }

    /// Checks that everything of a walkthrough is still there.
    pub async fn has_walked(&self, walked: &Walked) {
        let (status, _, event) = self.get(&format!("/events/{}", walked.id), &walked.token).await;
        assert_eq!((status, &event["status"]), (200, &json!("APPROVED")), "{event}");
        let (status, _, history) = self.get(&format!("/events/{}/history", walked.id), &walked.token).await;
        assert_eq!(status, 200, "{history}");
        let actions: Vec<&Value> =
            history["data"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
        assert_eq!(actions, ["created", "submitted", "approved"]);
        assert_eq!(history["data"][1]["correlationId"], "test-123");
    }
}
