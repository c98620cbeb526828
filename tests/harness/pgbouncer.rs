//! A real PgBouncer in front of a server, with fewer connections than its clients have.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nats_server::child_process::ChildProcess;
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::ports::free_port;
use super::postgres::{Postgres, user};
use super::process::found_by;

/// Connections to the server for each database.
pub const CONNECTIONS: u32 = 8;

/// A running pooler. Dropping it ends it and removes its files.
pub struct PgBouncer {
    _process: ChildProcess,
    port: u16,
    server_port: u16,
    _directory: TempDir,
}

impl PgBouncer {
    /// Starts one that keeps no prepared statements, in `session` or `transaction` mode.
    pub async fn start(server: &Postgres, mode: &str) -> Self {
        let program = program().await;
        let version = Command::new(&program).arg("--version").output().await.expect("it runs");
        // Older ones know neither the setting nor how to keep any.
        let keeps_none = if is_aware(&version.stdout) { "max_prepared_statements = 0" } else { "" };
        for _ in 0..5 {
            let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
            std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let users = directory.path().join("users.txt");
            std::fs::write(&users, "\"worker\" \"\"\n").unwrap();
            let settings = directory.path().join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\n\
                 default_pool_size = {CONNECTIONS}\n{keeps_none}\n",
                server.port(),
                users.display()
            );
            std::fs::write(&settings, text).unwrap();
            let mut process = ChildProcess::start([&program, &settings], user()).await.unwrap();
            if listens(&mut process, port).await {
                return Self { _process: process, port, server_port: server.port(), _directory: directory };
            }
        }
        panic!("PgBouncer does not start");
    }

    /// The way to a database of the server that leads through the pooler.
    pub fn through(&self, url: &SecretString) -> SecretString {
        let (direct, pooled) = (format!(":{}/", self.server_port), format!(":{}/", self.port));
        SecretString::from(url.expose_secret().replace(&direct, &pooled))
    }
}

/// Whether it has the setting `max_prepared_statements`: 1.21 and later.
fn is_aware(version: &[u8]) -> bool {
    let text = String::from_utf8_lossy(version);
    let minor = text.split_whitespace().nth(1).and_then(|version| version.split('.').nth(1));
    minor.and_then(|minor| minor.parse().ok()).is_some_and(|minor: u32| minor >= 21)
}

/// Waits until it takes connections; `false` when it ends instead.
async fn listens(process: &mut ChildProcess, port: u16) -> bool {
    let patience = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if process.has_ended().unwrap() {
            return false;
        }
        assert!(Instant::now() < patience, "PgBouncer is not up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// The program, found or installed once per run.
async fn program() -> PathBuf {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    FOUND.get_or_init(|| found_by("scripts/pgbouncer")).await.clone()
}
