//! A real Postgres server for the suites, with a database of its own for each test.

use std::ffi::OsString;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nats_server::child_process::ChildProcess;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::ports::free_port;
use super::process::found_by;

/// Debian's user `nobody`: Postgres refuses to run as root.
const UNPRIVILEGED: u32 = 65534;

/// Runs the server. Once it is no longer wanted it is stopped, and its files are removed.
const SERVE: &str = r#"
trap 'kill -INT "$server"; unwanted=1' TERM
"$1/postgres" -D "$2/data" -p "$3" & server=$!
wait "$server"; wait "$server"
[ -z "$unwanted" ] || rm -rf "$2"
"#;

/// Tests end with their process; what a crash loses here, nobody misses.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 400
shared_buffers = 32MB
fsync = off
full_page_writes = off
log_min_messages = fatal
";

/// Who owns the tests' databases, as a worker's user does: policies bind nobody but superusers.
const WORKER: &str = "worker";

/// A running server. Dropping it ends it and removes its files.
pub struct Postgres {
    _process: ChildProcess,
    binaries: PathBuf,
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// The server that all tests of this run share.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Starts a server of the test's own that trusts everybody.
    pub async fn start() -> Self {
        Self::initialized(&["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"], None).await
    }

    /// Starts a server of the test's own that asks for passwords over the network, as its container does.
    pub async fn start_with(password_file: &Path, arguments: &str) -> Self {
        let mut all = vec!["--auth-local=trust", "--auth-host=scram-sha-256"];
        all.extend(arguments.split(' '));
        Self::initialized(&all, Some(password_file)).await
    }

    async fn initialized(arguments: &[&str], password_file: Option<&Path>) -> Self {
        let binaries = binaries().await;
        let directory = new_directory();
        let mut initdb = Command::new(binaries.join("initdb"));
        initdb.args(arguments).args(["--username=postgres", "--no-sync"]);
        if let Some(file) = password_file {
            // The server's user may not be allowed to read the original.
            let copy = directory.join("password");
            std::fs::copy(file, &copy).expect("the password is copied");
            chown(&copy, user(), user()).expect("the copy is handed over");
            initdb.arg("--pwfile").arg(copy);
        }
        run(initdb.arg("-D").arg(directory.join("data"))).await;
        let sockets = format!("unix_socket_directories = '{}'\n", directory.display());
        append(&directory.join("data/postgresql.conf"), &(SETTINGS.to_owned() + &sockets));
        let server = Self::serving(binaries, directory).await;
        let role = format!("CREATE ROLE {WORKER} LOGIN NOSUPERUSER NOBYPASSRLS");
        sqlx::query(AssertSqlSafe(role)).execute(&mut server.connect().await).await.expect("a role");
        server
    }

    /// Starts a hot standby of this server, which follows it.
    pub async fn standby(&self) -> Self {
        let directory = new_directory();
        let source = format!("host={} port={} user=postgres", self.directory.display(), self.port);
        let mut backup = Command::new(self.binaries.join("pg_basebackup"));
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", &source]);
        run(backup.arg("-D").arg(directory.join("data"))).await;
        let sockets = format!("unix_socket_directories = '{}'\n", directory.display());
        append(&directory.join("data/postgresql.conf"), &sockets);
        Self::serving(self.binaries.clone(), directory).await
    }

    /// Serves what is in `directory`, on a free port.
    async fn serving(binaries: PathBuf, directory: PathBuf) -> Self {
        // Another process may take the port between choosing and listening.
        for _ in 0..5 {
            let port = free_port();
            if let Some(process) = serve(&binaries, &directory, port).await {
                return Self { _process: process, binaries, directory, port };
            }
        }
        panic!("Postgres does not start in {}", directory.display());
    }

    /// Kills the server where it stands.
    pub fn kill(&self) {
        let file =
            std::fs::read_to_string(self.directory.join("data/postmaster.pid")).expect("a running server");
        let pid = file.lines().next().unwrap().parse().expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the server is killed");
    }

    /// Starts a server that was killed, where it was.
    pub async fn start_again(self) -> Self {
        // The killed server's children take a moment to notice.
        for _ in 0..20 {
            if let Some(process) = serve(&self.binaries, &self.directory, self.port).await {
                return Self { _process: process, ..self };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Postgres does not start again");
    }

    /// The process that serves the one connection which has begun a transaction.
    pub async fn backend_in_transaction(&self) -> Pid {
        let mut connection = self.connect().await;
        let pid = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'");
        Pid::from_raw(pid.fetch_one(&mut connection).await.expect("one such connection"))
    }

    /// Creates an empty database and returns its URL for the user who owns it, and nothing else.
    pub async fn database(&self) -> SecretString {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect().await;
        // The template is copied file by file: nobody may be connected to it meanwhile.
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name} OWNER {WORKER} TEMPLATE template0")))
            .execute(&mut connection)
            .await
            .expect("a database");
        SecretString::from(format!("postgres://{WORKER}@127.0.0.1:{}/{name}", self.port))
    }

    /// Runs a script that makes databases, as a container's first start does.
    pub async fn run_script(&self, script: &Path, secrets: &Path) {
        let path = format!("{}:{}", self.binaries.display(), std::env::var("PATH").unwrap_or_default());
        let output = Command::new(script)
            .env("PATH", path)
            .env("PGHOST", &self.directory)
            .env("PGPORT", self.port.to_string())
            .env("EVENTBOARD_SECRETS", secrets)
            .output()
            .await
            .expect("the script runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A connection of the superuser's.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&local(&self.directory, self.port)).await.expect("a connection")
    }

    /// A connection of the superuser's to a database.
    pub async fn connect_to(&self, database: &str) -> PgConnection {
        let options = local(&self.directory, self.port).database(database);
        PgConnection::connect_with(&options).await.expect("a connection")
    }

    /// Where its socket is.
    pub fn directory(&self) -> &str {
        self.directory.to_str().expect("a path that is text")
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// A directory for a server's files, owned by the user it runs as.
fn new_directory() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("eventboard-postgres-").tempdir();
    let directory = directory.expect("a temporary directory").keep();
    chown(&directory, user(), user()).expect("the directory is handed over");
    directory
}

/// Runs one of the server's programs as the user that the server runs as.
async fn run(program: &mut Command) {
    program.current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    if let Some(user) = user() {
        program.uid(user).gid(user);
    }
    let output = program.output().await.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// How the superuser connects, whatever the server asks of others.
fn local(directory: &Path, port: u16) -> PgConnectOptions {
    PgConnectOptions::new().socket(directory).port(port).username("postgres").database("postgres")
}

/// Postgres runs as this user; `None` is the one who runs the tests.
pub(super) fn user() -> Option<u32> {
    geteuid().is_root().then_some(UNPRIVILEGED)
}

/// Runs a server and waits until it takes connections; `None` when it ends instead.
async fn serve(binaries: &Path, directory: &Path, port: u16) -> Option<ChildProcess> {
    let serve = ["sh", "-c", SERVE, "eventboard-postgres"].map(OsString::from);
    let arguments = [binaries.into(), directory.into(), port.to_string().into()];
    let mut process = ChildProcess::start(serve.into_iter().chain(arguments), user()).await.unwrap();
    let server = local(directory, port);
    let patience = Instant::now() + Duration::from_secs(30);
    while PgConnection::connect_with(&server).await.is_err() {
        if process.has_ended().unwrap() {
            return None;
        }
        assert!(Instant::now() < patience, "Postgres is not up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(process)
}

fn append(path: &Path, text: &str) {
    let before = std::fs::read_to_string(path).expect("the file initdb wrote");
    std::fs::write(path, before + text).expect("its settings are written");
}

/// The directory of the server's programs, found or installed once per run.
async fn binaries() -> PathBuf {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    FOUND.get_or_init(|| found_by("scripts/postgres-server")).await.clone()
}
