//! Three brokers: whichever one is killed, the walkthrough goes on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nats_server::Broker;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::ports::free_port;
use crate::harness::process::{Process, program};
use crate::harness::walkthrough::Visitor;
use crate::harness::{broker, compose, eventually};

/// A broker of `nats-cluster.conf` and of everything it includes, with nothing changed but the addresses.
async fn start(directory: &Path, index: usize, port: Option<u16>, routes: &[u16; 3]) -> Broker {
    let name = format!("nats-{}", index + 1);
    let directory = directory.join(&name);
    let secrets = "deploy/sample-secrets";
    std::fs::create_dir_all(directory.join(secrets)).unwrap();
    let secrets = ["nats-passwords.conf", "nats-routes.conf"].map(|file| format!("{secrets}/{file}"));
    for path in ["nats.conf", "nats-cluster.conf"].into_iter().chain(secrets.iter().map(String::as_str)) {
        let mut text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        text = text.replace("0.0.0.0:6222", &format!("127.0.0.1:{}", routes[index]));
        for (host, port) in ["@nats:6222", "@nats-2:6222", "@nats-3:6222"].iter().zip(routes) {
            text = text.replace(host, &format!("@127.0.0.1:{port}"));
        }
        std::fs::write(directory.join(path), text).unwrap();
    }
    let file = directory.join("nats-cluster.conf");
    broker::start_configured(&file, &directory, port, &["-n", &name]).await
}

/// Three brokers that know each other.
pub struct Cluster {
    pub brokers: Vec<Broker>,
    routes: [u16; 3],
    directory: PathBuf,
}

impl Cluster {
    pub async fn start(directory: &Path) -> Self {
        let routes = [free_port(), free_port(), free_port()];
        let mut brokers = Vec::new();
        for index in 0..3 {
            brokers.push(start(directory, index, None, &routes).await);
        }
        Self { brokers, routes, directory: directory.to_owned() }
    }

    /// Their addresses, as one setting.
    pub fn urls(&self) -> String {
        self.brokers.iter().map(Broker::url).collect::<Vec<_>>().join(",")
    }

    /// Starts the broker again that ended, where it was.
    pub async fn start_again(&mut self, index: usize) {
        let port = self.brokers[index].port();
        self.brokers[index] = start(&self.directory, index, Some(port), &self.routes).await;
    }

    /// Waits until every broker holds the keys.
    pub async fn is_whole(&self, asked: usize) {
        eventually("every broker holds the keys", || holds_keys(&self.brokers[asked])).await;
    }
}

/// The variables of a service in the overlay over those of the base, on this machine.
fn environment(service: &str, urls: &str, data: &Path) -> HashMap<String, String> {
    let (base, overlay) = (compose::read("docker-compose.yml"), compose::read("docker-compose.cluster.yml"));
    let mut variables = HashMap::new();
    for file in [&base, &overlay] {
        for (name, value) in file["services"][service]["environment"].as_object().unwrap() {
            variables.insert(name.clone(), value.as_str().unwrap().to_owned());
        }
    }
    // The brokers are the overlay's; databases and keys are files of the test's.
    assert_eq!(variables["EVENTBOARD_NATS_URL"], "nats://nats:4222,nats://nats-2:4222,nats://nats-3:4222");
    variables.insert("EVENTBOARD_NATS_URL".to_owned(), urls.to_owned());
    variables.retain(|name, _| !name.contains("DATABASE"));
    variables.insert("EVENTBOARD_DATA_DIR".to_owned(), data.to_str().unwrap().to_owned());
    for value in variables.values_mut() {
        if value.starts_with("0.0.0.0:") {
            "127.0.0.1:0".clone_into(value);
        } else if let Some(secret) = value.strip_prefix("/run/secrets/") {
            let file = base["secrets"][secret]["file"].as_str().unwrap();
            *value = Path::new(env!("CARGO_MANIFEST_DIR")).join(file).to_str().unwrap().to_owned();
        }
    }
    variables
}

/// Whether every broker holds the bucket of keys, up to date.
async fn holds_keys(broker: &Broker) -> bool {
    let options =
        async_nats::ConnectOptions::with_user_and_password("ops".to_owned(), broker::password("ops"))
            .custom_inbox_prefix("_INBOX_ops");
    let Ok(client) = options.connect(broker.url()).await else { return false };
    let jetstream = async_nats::jetstream::new(client);
    let Ok(mut stream) = jetstream.get_stream("KV_public-keys").await else { return false };
    let Ok(info) = stream.info().await else { return false };
    let replicas = info.cluster.as_ref().map_or(&[][..], |cluster| &cluster.replicas);
    replicas.len() == 2 && replicas.iter().all(|replica| replica.current && !replica.offline)
}

/// Whether a server without the brokers' password is turned away.
async fn strangers_are_refused(port: u16) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connect = r#"CONNECT {"verbose":false,"pedantic":false,"name":"stranger","server_name":"stranger"}"#;
    stream.write_all(format!("{connect}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.contains("-ERR 'Authorization Violation'")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walkthrough_survives_the_loss_of_any_one_broker() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(directory.path()).await;
    let urls = cluster.urls();
    let spawn = async |service: &str| {
        let definition = compose::read("docker-compose.yml");
        let command = compose::texts(&definition["services"][service]["command"]).join(" ");
        let (name, arguments) = command.split_once(' ').unwrap_or((&command, ""));
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        Process::start(&program(name).await, &arguments, environment(service, &urls, directory.path()))
    };
    assert!(strangers_are_refused(cluster.routes[0]).await, "anybody may join the cluster");
    assert!(spawn("provision").await.ended().await, "provisioning fails");
    let services = [spawn("auth-worker").await, spawn("events-worker").await, spawn("gateway").await];
    let mut http = String::new();
    for service in &services {
        if let Value::String(address) = &service.ready_line().await["http"] {
            http = format!("http://{address}");
        }
    }
    let visitor = Visitor { patience: Duration::from_secs(10), ..Visitor::new(&http) };
    let mut walked = visitor.walk().await;
    for index in 0..3 {
        cluster.is_whole((index + 1) % 3).await;
        cluster.brokers[index].signal(Signal::SIGKILL);
        cluster.brokers[index].ended().await;
        visitor.has_walked(&walked).await;
        walked = visitor.walk().await;
        // A service that starts now must find its keys on the two that are left.
        let second = spawn("gateway").await;
        let http = second.ready_line().await["http"].as_str().unwrap().to_owned();
        Visitor::new(&format!("http://{http}")).has_walked(&walked).await;
        cluster.start_again(index).await;
    }
}
