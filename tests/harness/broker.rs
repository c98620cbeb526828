//! A real nats-server on a free port, with its own directory.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use eventboard::broker::{Broker, find_nats_server};

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
    Broker::start(&binary().await, directory, port).await.expect("the broker starts")
}
