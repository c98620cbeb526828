//! A real nats-server on a free port, with its own directory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nats_server::{Broker, find_nats_server};

use super::ports::free_port;

/// The binary, found or fetched once per run.
pub async fn binary() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    static SEARCH: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one_at_a_time = SEARCH.lock().await;
    if let Some(path) = FOUND.get() {
        return path.clone();
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools");
    let path = find_nats_server(&tools).await.expect("a nats-server for the tests");
    FOUND.get_or_init(|| path).clone()
}

/// Starts a broker in `directory`, on `port` or a free one.
pub async fn start(directory: &Path, port: Option<u16>) -> Broker {
    let port = Some(port.unwrap_or_else(free_port));
    Broker::start(&binary().await, directory, port).await.expect("the broker starts")
}

/// Starts a broker with a configuration file, its store in `directory`, on free ports or on the one given;
/// `more` are further arguments.
pub async fn start_configured(file: &Path, directory: &Path, port: Option<u16>, more: &[&str]) -> Broker {
    std::fs::create_dir_all(directory).expect("a directory for the broker");
    let directory = directory.canonicalize().expect("its real path");
    let (store, port) = (directory.join("jetstream"), port.unwrap_or_else(free_port).to_string());
    let mut arguments: Vec<&OsStr> = vec!["-c".as_ref(), file.as_ref(), "-sd".as_ref(), store.as_ref()];
    arguments.extend(["-a", "127.0.0.1", "-p", &port, "-m", "-1"].map(OsStr::new));
    arguments.extend(more.iter().map(OsStr::new));
    Broker::configured(&binary().await, &directory, &arguments).await.expect("the broker starts")
}

/// The sample password of a user of `nats.conf`.
pub fn password(user: &str) -> String {
    let file = format!("deploy/sample-secrets/nats-{user}-password");
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .expect("a sample")
        .trim()
        .to_owned()
}
