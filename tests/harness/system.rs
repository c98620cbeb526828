//! The whole system in this process, with a broker of its own, and clients that speak to it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use auth_worker::AuthWorker;
use auth_worker::store::SessionUser;
use contract::Timestamp;
use contract::auth::{Email, OrganizationId, SessionId, User, UserId};
use database::DatabaseSettings;
use events_worker::EventsWorker;
use gateway::{Gateway, RateLimit};
use messaging::NatsSettings;
use messaging::provision;
use nats_server::Broker;
use reqwest::{Client, Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use service::Process;
use settings::Environment;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::broker;
use super::postgres::Postgres;

/// The password of every user the suites make.
pub const PASSWORD: &str = "correct horse battery";

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A running system. Dropping it ends every part.
pub struct System {
    pub broker: Broker,
    pub http: String,
    pub admin: String,
    pub nats: async_nats::Client,
    client: Client,
    workers: HashMap<&'static str, Worker>,
    gateway: Option<Worker>,
    more: Vec<Worker>,
    databases: HashMap<&'static str, Option<SecretString>>,
    directory: TempDir,
}

/// Which database a system keeps its data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// A fresh database; `None` leaves it to the worker to make a file in its data directory.
    pub async fn fresh(self) -> Option<SecretString> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(Postgres::shared().await.database().await),
        }
    }
}

/// The tables of one database, past whatever the workers allow.
pub struct Tables {
    url: Option<SecretString>,
    /// What lives as long as this: an SQLite file and its directory.
    directory: TempDir,
}

impl Tables {
    /// Those of a fresh database.
    pub async fn fresh(database: Database) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { url: database.fresh().await, directory }
    }

    /// How a worker opens it.
    pub fn settings(&self) -> database::DatabaseUrl {
        let settings = DatabaseSettings::at(self.url.clone());
        settings.resolve(&self.directory.path().join("worker.db")).expect("a database")
    }

    /// Runs a statement.
    pub async fn run(&self, statement: &'static str) {
        match &self.url {
            None => {
                let file = SqliteConnectOptions::new().filename(self.directory.path().join("worker.db"));
                let mut connection = SqliteConnection::connect_with(&file).await.expect("the file");
                sqlx::query(statement).execute(&mut connection).await.expect(statement);
            }
            Some(url) => {
                let name = url.expose_secret().rsplit('/').next().expect("a name").to_owned();
                let mut connection = Postgres::shared().await.connect_to(&name).await;
                sqlx::query(statement).execute(&mut connection).await.expect(statement);
            }
        }
    }
}

struct Worker {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Somebody with a token.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: String,
    pub email: String,
    pub organization: String,
    pub token: String,
    pub refresh: String,
}

/// An HTTP response or a reply message, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub text: String,
    pub body: Value,
}

impl Answer {
    /// A header's value; names are in lower case.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The status, with the whole answer when it is not this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The last part of a problem's type.
    pub fn problem(&self) -> &str {
        self.body["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or("")
    }

    /// A problem's violations as `pointer code`, sorted.
    pub fn violations(&self) -> Vec<String> {
        let list = self.body["errors"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<String> = list
            .iter()
            .map(|one| format!("{} {}", one["pointer"].as_str().unwrap(), one["code"].as_str().unwrap()))
            .collect();
        found.sort();
        found
    }

    pub fn id(&self) -> String {
        self.body["id"].as_str().expect("an id").to_owned()
    }
}

impl System {
    /// Starts a broker, both workers on SQLite, and a gateway.
    pub async fn start() -> Self {
        Self::start_on(Database::Sqlite).await
    }

    /// Starts a broker, both workers and a gateway.
    pub async fn start_on(database: Database) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let broker = broker::start(&directory.path().join("nats"), None).await;
        Self::start_with(database, broker, directory).await
    }

    /// Starts the same on this broker, with its files in `directory`.
    pub async fn start_with(database: Database, broker: Broker, directory: TempDir) -> Self {
        let url = broker.url();
        provision(&NatsSettings::at(url.clone()), 1).await.expect("the buckets are made");
        let (auth, events) = tokio::join!(database.fresh(), database.fresh());
        let databases = HashMap::from([("auth-worker", auth), ("events-worker", events)]);
        let (auth, events) = tokio::join!(
            start_worker("auth-worker", &url, directory.path(), &databases),
            start_worker("events-worker", &url, directory.path(), &databases)
        );
        let (gateway, addresses) = start_gateway(&url, 0).await;
        Self {
            nats: async_nats::connect(&url).await.expect("a connection of the test's own"),
            broker,
            http: format!("http://{}", addresses.http.expect("an API")),
            admin: format!("http://{}", addresses.admin),
            client: Client::new(),
            workers: HashMap::from([("auth-worker", auth), ("events-worker", events)]),
            gateway: Some(gateway),
            more: Vec::new(),
            databases,
            directory,
        }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Stops a worker and waits until it has answered everything.
    pub async fn stop_worker(&mut self, name: &'static str) {
        let worker = self.workers.remove(name).expect("a running worker");
        worker.stop.cancel();
        worker.task.await.expect("the worker ends").expect("the worker ends well");
    }

    /// Stops the gateway and waits until it has ended.
    pub async fn stop_gateway(&mut self) {
        let gateway = self.gateway.take().expect("a running gateway");
        gateway.stop.cancel();
        gateway.task.await.expect("the gateway ends").expect("the gateway ends well");
    }

    /// Starts a gateway beside the first one, and returns where it listens.
    pub async fn start_another_gateway(&mut self) -> String {
        self.add_gateway(0).await
    }

    /// Starts a gateway that believes the last address in `X-Forwarded-For`.
    pub async fn start_gateway_behind_a_proxy(&mut self) -> String {
        self.add_gateway(1).await
    }

    async fn add_gateway(&mut self, trusted_hops: usize) -> String {
        let (gateway, addresses) = start_gateway(&self.broker.url(), trusted_hops).await;
        self.more.push(gateway);
        format!("http://{}", addresses.http.expect("an API"))
    }

    /// Starts a worker beside the first one of its kind.
    pub async fn start_another_worker(&mut self, name: &'static str) {
        let worker = start_worker(name, &self.broker.url(), self.directory.path(), &self.databases).await;
        self.more.push(worker);
    }

    /// Starts a worker that was stopped.
    pub async fn start_worker(&mut self, name: &'static str) {
        let worker = start_worker(name, &self.broker.url(), self.directory.path(), &self.databases).await;
        self.workers.insert(name, worker);
    }

    /// Waits for a worker to end by itself, and returns how it ended.
    pub async fn worker_ended(&mut self, name: &'static str) -> anyhow::Result<()> {
        self.workers.remove(name).expect("a running worker").task.await.expect("the worker ends")
    }

    pub fn request(&self, method: Method, path: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.http));
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an HTTP response");
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
            .collect();
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, body }
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::GET, path, Some(token))).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Answer {
        self.send(self.request(Method::DELETE, path, Some(token))).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        let request = self.request(Method::POST, path, (!token.is_empty()).then_some(token));
        self.send(if body.is_null() { request } else { request.json(&body) }).await
    }

    pub async fn patch(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path, Some(token)).json(&body)).await
    }

    /// One request message, straight to the workers.
    pub async fn message(&self, subject: &str, payload: &str, headers: &[(&str, &str)]) -> Answer {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let reply = self
            .nats
            .request_with_headers(subject.to_owned(), map, payload.to_owned().into())
            .await
            .expect("a reply");
        let headers: HashMap<String, String> = reply
            .headers
            .unwrap_or_default()
            .iter()
            .map(|(name, values)| (name.to_string().to_lowercase(), values[0].to_string()))
            .collect();
        let status = headers.get("x-status").or_else(|| headers.get("nats-service-error-code"));
        let status = status.expect("a status header").parse().expect("a number");
        let text = String::from_utf8(reply.payload.to_vec()).expect("UTF-8");
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, body }
    }

    /// A message with a bearer token.
    pub async fn message_as(&self, subject: &str, token: &str, payload: Value) -> Answer {
        let bearer = format!("Bearer {token}");
        self.message(subject, &payload.to_string(), &[("Authorization", &bearer)]).await
    }

    pub async fn login(&self, email: &str, password: &str) -> Member {
        let answer =
            self.post("/auth/login", "", json!({ "email": email, "password": password })).await.expect(200);
        member(&answer)
    }

    /// Founds an organisation and returns its administrator.
    pub async fn found_organization(&self) -> Member {
        let name = unique("Organisation");
        let answer = self.post("/auth/signup", "", signup(json!({ "organizationName": name }))).await;
        member(&answer.expect(201))
    }

    /// Adds a member to `admin`'s organisation.
    pub async fn add_member(&self, admin: &Member, role: &str) -> Member {
        let email = format!("{}@example.com", unique("member"));
        let invite = json!({ "email": email, "role": role });
        let invited = self.post("/auth/invitations", &admin.token, invite).await.expect(201);
        let mut request = signup(json!({ "invitation": invited.body["invitation"] }));
        request["email"] = json!(email);
        member(&self.post("/auth/signup", "", request).await.expect(201))
    }

    /// The URL of a worker's database, unless it is a file.
    pub fn database(&self, worker: &str) -> Option<&SecretString> {
        self.databases[worker].as_ref()
    }

    /// Where databases and the signing key are.
    pub fn data_dir(&self) -> &Path {
        self.directory.path()
    }

    /// An access token as the auth worker would issue it to `member`, had they this role.
    pub fn token_with_role(&self, member: &Member, role: &str) -> String {
        let key = self.directory.path().join("signing-key.pem");
        let issuer = auth_worker::tokens::TokenIssuer::from_file_or_generate(&key).expect("the key");
        let now = Timestamp::now();
        let user = User {
            id: UserId::parse(&member.id).expect("an id"),
            email: Email::parse(&member.email).expect("an address"),
            first_name: "Test".to_owned(),
            last_name: "Person".to_owned(),
            role: role.parse().expect("a role"),
            organization_id: OrganizationId::parse(&member.organization).expect("an id"),
            created_at: now,
            updated_at: now,
        };
        let owner = SessionUser { user, token_version: 0 };
        let token = issuer.access_token(&owner, SessionId(uuid::Uuid::now_v7()), now).expect("a token");
        token.expose().to_owned()
    }

    /// A draft by `member`.
    pub async fn draft(&self, member: &Member) -> String {
        self.post("/events", &member.token, event("Test")).await.expect(201).id()
    }

    /// An event by `creator` that stands at `status`; `decider` decides where that takes a decision.
    pub async fn event_at(&self, status: &str, creator: &Member, decider: &Member) -> String {
        let id = self.draft(creator).await;
        let act = async |action: &str, by: &Member, body: Value| {
            self.post(&format!("/events/{id}/{action}"), &by.token, body).await.expect(200);
        };
        if status != "DRAFT" {
            act("submit", creator, Value::Null).await;
        }
        match status {
            "APPROVED" => act("approve", decider, Value::Null).await,
            "REJECTED" => act("reject", decider, json!({ "reason": "not good enough yet" })).await,
            _ => {}
        }
        id
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for worker in self.workers.values().chain(&self.gateway).chain(&self.more) {
            worker.stop.cancel();
        }
    }
}

/// A body for creating an event.
pub fn event(title: &str) -> Value {
    json!({
        "title": title,
        "description": "Test",
        "startDate": "2026-06-01T10:00:00Z",
        "endDate": "2026-06-01T12:00:00Z",
    })
}

/// A signup body with a fresh address and what `more` says.
pub fn signup(more: Value) -> Value {
    let mut body = json!({
        "email": format!("{}@example.com", unique("user")),
        "password": PASSWORD,
        "firstName": "Test",
        "lastName": "Person",
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// A name nobody else in this run has.
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn member(answer: &Answer) -> Member {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Member {
        id: text(&answer.body["user"]["id"]),
        email: text(&answer.body["user"]["email"]),
        organization: text(&answer.body["user"]["organizationId"]),
        token: text(&answer.body["accessToken"]),
        refresh: text(&answer.body["refreshToken"]),
    }
}

/// An auth worker that keeps everything in `data_dir`.
pub fn auth_worker_at(nats: NatsSettings, data_dir: PathBuf) -> auth_worker::Config {
    auth_worker::Config {
        admin: ANY_PORT,
        nats,
        database: DatabaseSettings::at(None),
        data_dir,
        signing_key: None,
        signing_key_file: None,
        password_pepper: None,
        password_pepper_file: None,
        password_threads: None,
        demo: false,
        env: Environment::Development,
    }
}

async fn start_worker(
    name: &'static str,
    url: &str,
    directory: &Path,
    databases: &HashMap<&'static str, Option<SecretString>>,
) -> Worker {
    let database = DatabaseSettings::at(databases[name].clone());
    let stop = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let signal = move |_| {
        let _ = ready.send(());
    };
    let (nats, data_dir) = (NatsSettings::at(url.to_owned()), PathBuf::from(directory));
    let task = match name {
        "auth-worker" => {
            let config = auth_worker::Config { database, demo: true, ..auth_worker_at(nats, data_dir) };
            tokio::spawn(AuthWorker::run(config, Box::new(signal), stop.clone()))
        }
        _ => {
            let config = events_worker::Config {
                admin: ANY_PORT,
                nats,
                database,
                data_dir,
                demo: true,
                env: Environment::Development,
            };
            tokio::spawn(EventsWorker::run(config, Box::new(signal), stop.clone()))
        }
    };
    is_ready.await.expect("the worker becomes ready");
    Worker { stop, task }
}

async fn start_gateway(url: &str, trusted_hops: usize) -> (Worker, service::Addresses) {
    let stop = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let config = gateway::Config {
        http: ANY_PORT,
        admin: ANY_PORT,
        nats: NatsSettings::at(url.to_owned()),
        cors_origins: gateway::CorsOrigins::Any,
        idle_timeout: 6,
        header_timeout: 3,
        max_connections: 4096,
        max_in_flight: 256,
        breakers: true,
        rate_limit_user: RateLimit::Off,
        rate_limit_ip: RateLimit::Off,
        trusted_hops,
        drain_delay: 0,
        env: Environment::Development,
    };
    let signal = move |addresses| {
        let _ = ready.send(addresses);
    };
    let task = tokio::spawn(Gateway::run(config, Box::new(signal), stop.clone()));
    (Worker { stop, task }, is_ready.await.expect("the gateway becomes ready"))
}
