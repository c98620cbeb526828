//! The system of `docker-compose.yml` without containers: every program with exactly the environment,
//! arguments and secrets that the file gives it, on this machine's addresses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nats_server::Broker;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::broker;
use super::postgres::Postgres;
use super::process::{Process, failing_worker, program};

/// The composition, and the servers its services need.
pub struct Compose {
    pub broker: Broker,
    pub postgres: Postgres,
    file: Value,
    directory: TempDir,
}

/// A running service.
pub struct Service {
    pub process: Process,
    pub environment: BTreeMap<String, String>,
}

impl Compose {
    /// Starts the broker and the database as the file says.
    pub async fn start() -> Self {
        let file = read("docker-compose.yml");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let postgres = start_postgres(&file).await;
        let broker = start_broker(&file, &directory.path().join("nats"), None).await;
        Self { broker, postgres, file, directory }
    }

    /// The variables of a service, with this machine's addresses and files in the place of the composition's.
    pub fn environment(&self, service: &str) -> BTreeMap<String, String> {
        let definition = &self.file["services"][service];
        let granted: Vec<&str> = texts(&definition["secrets"]);
        let variables = definition["environment"].as_object().expect("an environment");
        // Nobody listens there; the suites that want spans name a collector of their own.
        let here = variables.iter().filter(|(name, _)| !name.starts_with("OTEL_"));
        let here = here.map(|(name, value)| {
            let value = value.as_str().expect("a text");
            let value = match value.strip_prefix("/run/secrets/") {
                Some(secret) => {
                    assert!(granted.contains(&secret), "{service} is not granted {secret}");
                    secret_file(&self.file, secret).to_str().expect("UTF-8").to_owned()
                }
                None => value
                    .replace("nats://nats:4222", &self.broker.url())
                    .replace("@postgres:5432/", &format!("@127.0.0.1:{}/", self.postgres.port())),
            };
            // Any free port: the service says which.
            let listens = value.strip_prefix("0.0.0.0:").is_some();
            (name.clone(), if listens { "127.0.0.1:0".to_owned() } else { value })
        });
        let mut environment: BTreeMap<String, String> = here.collect();
        if service == "gateway" {
            // Load from one address, as the suites make it, would be refused.
            for limit in ["EVENTBOARD_RATE_LIMIT_USER", "EVENTBOARD_RATE_LIMIT_IP"] {
                environment.insert(limit.to_owned(), "off".to_owned());
            }
        }
        environment
    }

    /// Runs a service that ends by itself, and returns whether it was a good end.
    pub async fn run(&self, service: &str) -> bool {
        self.spawn(service).await.process.ended().await
    }

    /// Starts one more of a service and waits until it is ready, as its health check judges.
    pub async fn up(&self, service: &str) -> Service {
        let service = self.spawn(service).await;
        let line = service.process.ready_line().await;
        let admin = line["admin"].as_str().expect("its admin address");
        let mut check =
            Process::start(&program("eventboard").await, &["healthcheck"], [("EVENTBOARD_ADMIN", admin)]);
        assert!(check.ended().await, "the health check fails");
        service
    }

    /// Starts `program` with the environment of a service and `more`, and waits until it says it is ready.
    pub async fn up_as(&self, service: &str, program: &Path, more: &[(&str, String)]) -> Service {
        let mut environment = self.environment(service);
        for (name, value) in more {
            environment.insert((*name).to_owned(), value.clone());
        }
        if more.iter().any(|(name, _)| *name == "EVENTBOARD_DATA_DIR") {
            // On SQLite instead, in that directory.
            environment.retain(|name, _| !name.contains("DATABASE"));
        }
        let process = Process::start(program, &[], environment.clone());
        process.ready_line().await;
        Service { process, environment }
    }

    /// Starts the worker `service` that fails where `failpoints` say, as [`Compose::up_as`] does.
    pub async fn up_failing(&self, service: &str, failpoints: &str, more: &[(&str, String)]) -> Service {
        let mut more = more.to_vec();
        more.push(("FAILPOINTS", failpoints.to_owned()));
        self.up_as(service, &failing_worker(service).await, &more).await
    }

    async fn spawn(&self, service: &str) -> Service {
        let command = texts(&self.file["services"][service]["command"]);
        let environment = self.environment(service);
        let process = Process::start(&program(command[0]).await, &command[1..], environment.clone());
        Service { process, environment }
    }

    /// Where the broker keeps what it stores.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("nats/jetstream")
    }

    /// A connection to the broker with the rights of `user`.
    pub async fn nats(&self, user: &str) -> async_nats::Client {
        let options =
            async_nats::ConnectOptions::with_user_and_password(user.to_owned(), broker::password(user));
        let inbox = format!("_INBOX_{}", user.trim_end_matches("-worker"));
        options.custom_inbox_prefix(inbox).connect(self.broker.url()).await.expect("a connection")
    }

    /// Kills the broker.
    pub async fn kill_broker(&mut self) {
        self.broker.signal(Signal::SIGKILL);
        self.broker.ended().await;
    }

    /// Starts the broker where it was.
    pub async fn start_broker(&mut self) {
        let directory = self.directory.path().join("nats");
        self.broker = start_broker(&self.file, &directory, Some(self.broker.port())).await;
    }

    /// Kills the broker, removes everything it has stored, and starts it where it was.
    pub async fn wipe_broker(&mut self) {
        self.kill_broker().await;
        std::fs::remove_dir_all(self.directory.path().join("nats")).expect("its files are removed");
        self.start_broker().await;
    }
}

impl Service {
    /// Stops the service as a composition does, and returns whether it was a good end.
    pub async fn down(mut self) -> bool {
        self.process.signal(Signal::SIGTERM);
        self.process.ended().await
    }

    /// The address of the API, for a gateway.
    pub async fn http(&self) -> String {
        format!("http://{}", self.process.ready_line().await["http"].as_str().expect("its address"))
    }
}

/// A composition file.
pub fn read(name: &str) -> Value {
    let text = std::fs::read_to_string(root().join(name)).expect("the composition");
    serde_saphyr::from_str(&text).expect("YAML")
}

/// The texts of a list.
pub fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(|text| text.as_str().expect("a text")).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn secret_file(file: &Value, secret: &str) -> PathBuf {
    root().join(file["secrets"][secret]["file"].as_str().expect("a file for each secret"))
}

/// The broker with the configuration that its container gets. Its address and store are the machine's.
async fn start_broker(file: &Value, directory: &Path, port: Option<u16>) -> Broker {
    let service = &file["services"]["nats"];
    assert_eq!(texts(&service["command"]), ["-c", "/etc/nats/nats.conf", "-a", "0.0.0.0", "-sd", "/data"]);
    assert_eq!(texts(&service["volumes"])[0], "./nats.conf:/etc/nats/nats.conf:ro");
    // nats.conf includes the passwords from the path they are mounted at.
    let secret = &service["secrets"][0];
    let mounted = secret["target"].as_str().expect("a target").strip_prefix("/etc/nats/").expect("beside it");
    assert_eq!(root().join(mounted), secret_file(file, secret["source"].as_str().expect("a source")));
    broker::start_configured(&root().join("nats.conf"), directory, port, &[]).await
}

/// A server that asks for passwords over the network, with the databases the first start makes.
async fn start_postgres(file: &Value) -> Postgres {
    let service = &file["services"]["postgres"];
    let variable = |name: &str| service["environment"][name].as_str().expect("a variable");
    let password = variable("POSTGRES_PASSWORD_FILE").strip_prefix("/run/secrets/").expect("a secret");
    let password = secret_file(file, password);
    let postgres = Postgres::start_with(&password, variable("POSTGRES_INITDB_ARGS")).await;
    let script = "./deploy/create-databases.sh:/docker-entrypoint-initdb.d/create-databases.sh:ro";
    assert!(texts(&service["volumes"]).contains(&script));
    let secrets = password.parent().expect("the directory of the secrets");
    postgres.run_script(&root().join("deploy/create-databases.sh"), secrets).await;
    postgres
}
