//! A private nats-server: found or fetched, started on a free port, never left behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// Finds or fetches the binary. Part of this program, so that it also works outside the source tree.
const FIND_NATS_SERVER: &str = include_str!("../scripts/nats-server");

/// Starts its arguments and ends them once its input ends: the pipe to us breaks however we die.
const KEEPER: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null & child=$!
echo "$child"
{ read -r _ <&3; kill -TERM "$child"; kill -CONT "$child"; } 2>/dev/null & watcher=$!
wait "$child"; code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// How long a nats-server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds a usable nats-server, fetching one into `tools` when the machine has none. Progress goes to
/// standard error.
///
/// # Errors
/// When none can be had; standard error says what to install.
pub async fn find_nats_server(tools: &Path) -> anyhow::Result<PathBuf> {
    let output = Command::new("bash")
        .args(["-c", FIND_NATS_SERVER, "nats-server"])
        .env("EVENTBOARD_TOOLS", tools)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run bash to look for a nats-server")?;
    if !output.status.success() {
        bail!("there is no nats-server to run");
    }
    let path = String::from_utf8(output.stdout).context("the path of nats-server is not UTF-8")?;
    Ok(PathBuf::from(path.trim()))
}

/// A running nats-server. Dropping it, or the death of this process, ends it.
#[derive(Debug)]
pub struct Broker {
    keeper: Child,
    pipe: Option<ChildStdin>,
    pid: i32,
    port: u16,
}

#[derive(Deserialize)]
struct Ports {
    nats: Vec<String>,
}

impl Broker {
    /// Starts `binary` on 127.0.0.1 with its files in `directory`; without a port, on a free one.
    ///
    /// # Errors
    /// When it does not become ready; the end of its log is part of the error.
    pub async fn start(binary: &Path, directory: &Path, port: Option<u16>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let directory = directory.canonicalize()?;
        let config = directory.join("nats-server.conf");
        let log = directory.join("nats-server.log");
        forget_ports(&directory)?;
        std::fs::write(&config, configuration(&directory, &log, port))?;
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "eventboard-broker"])
            .arg(binary)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C is for us alone: the broker must outlive the services that still answer.
            .process_group(0)
            .spawn()
            .context("cannot start nats-server")?;
        let pipe = keeper.stdin.take();
        let mut lines = BufReader::new(keeper.stdout.take().context("nats-server has no output")?).lines();
        let pid = lines.next_line().await?.context("nats-server did not start")?.parse()?;
        let mut broker = Self { keeper, pipe, pid, port: 0 };
        // The server names this file after its own binary.
        let name = binary.file_name().context("the path of nats-server names no file")?.to_string_lossy();
        let ports = directory.join(format!("{name}_{pid}.ports"));
        match tokio::time::timeout(START_TIMEOUT, broker.read_port(&ports)).await {
            Ok(Ok(port)) => {
                broker.port = port;
                Ok(broker)
            }
            Ok(Err(error)) => Err(error.context(tail(&log))),
            Err(_) => bail!("nats-server is not ready after {START_TIMEOUT:?}: {}", tail(&log)),
        }
    }

    async fn read_port(&mut self, ports: &Path) -> anyhow::Result<u16> {
        loop {
            if let Some(status) = self.keeper.try_wait()? {
                bail!("nats-server ended at once with {status}");
            }
            // Written once the server accepts connections; half written files do not parse.
            let written =
                std::fs::read(ports).ok().and_then(|text| serde_json::from_slice::<Ports>(&text).ok());
            let address = written.as_ref().and_then(|ports| ports.nats.first());
            if let Some(port) = address.and_then(|address| address.rsplit(':').next()?.parse().ok()) {
                return Ok(port);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The port clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The process id of nats-server itself.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to nats-server itself.
    pub fn signal(&self, signal: Signal) {
        // Fails when it has ended already.
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// Resolves when nats-server has ended.
    pub async fn ended(&mut self) {
        if let Err(error) = self.keeper.wait().await {
            tracing::error!(%error, "cannot wait for nats-server");
        }
    }

    /// Ends nats-server and waits until it has.
    pub async fn stop(mut self) {
        drop(self.pipe.take());
        if tokio::time::timeout(STOP_TIMEOUT, self.keeper.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.keeper.wait().await;
        }
    }
}

fn configuration(directory: &Path, log: &Path, port: Option<u16>) -> String {
    let port = port.map_or("-1".to_owned(), |port| port.to_string());
    // JSON strings are valid strings of this format, whatever the path holds.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        "host: 127.0.0.1\nport: {port}\nmax_payload: 4MB\nlog_file: {}\nports_file_dir: {}\njetstream {{ store_dir: {} }}\n",
        quoted(log),
        quoted(directory),
        quoted(&directory.join("jetstream")),
    )
}

/// Removes what killed servers left: a reused process id must not bring an old port back.
fn forget_ports(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.reverse();
    format!("{}: {}", log.display(), lines.join(" / "))
}
