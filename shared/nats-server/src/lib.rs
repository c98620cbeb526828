//! A private nats-server: found or fetched, started on a free port, never left behind.

pub mod child_process;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::process::Command;

use child_process::ChildProcess;

/// Finds or fetches the binary. Part of this program, so that it also works outside the source tree.
const FIND_NATS_SERVER: &str = include_str!("../../../scripts/nats-server");

/// How long a nats-server may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Where a fetched nats-server is kept: beside the sources, or, where there are none, in `data_dir`.
pub fn tools(data_dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    match source.filter(|source| source.join("scripts/nats-server").exists()) {
        Some(source) => source.join(".tools"),
        None => data_dir.join("tools"),
    }
}

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
    process: ChildProcess,
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
        std::fs::write(&config, configuration(&directory, port))?;
        Self::configured(binary, &directory, &[OsStr::new("-c"), config.as_os_str()]).await
    }

    /// Starts `binary` with `arguments`; its log and the file with its port are in `directory`.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub async fn configured(binary: &Path, directory: &Path, arguments: &[&OsStr]) -> anyhow::Result<Self> {
        let log = directory.join("nats-server.log");
        forget_ports(directory)?;
        let own = ["--log".as_ref(), log.as_os_str(), "--ports_file_dir".as_ref(), directory.as_os_str()];
        let command = [binary.as_os_str()].into_iter().chain(own).chain(arguments.iter().copied());
        let process = ChildProcess::start(command, None).await.context("cannot start nats-server")?;
        // The server names this file after its own binary.
        let name = binary.file_name().context("the path of nats-server names no file")?.to_string_lossy();
        let ports = directory.join(format!("{name}_{}.ports", process.pid()));
        let mut broker = Self { process, port: 0 };
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
            if self.process.has_ended()? {
                bail!("nats-server ended at once");
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
        self.process.pid()
    }

    /// Sends a signal to nats-server itself.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Resolves when nats-server has ended.
    pub async fn ended(&mut self) {
        self.process.ended().await;
    }

    /// Ends nats-server and waits until it has.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}

fn configuration(directory: &Path, port: Option<u16>) -> String {
    let port = port.map_or("-1".to_owned(), |port| port.to_string());
    // JSON strings are valid strings of this format, whatever the path holds.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        "host: 127.0.0.1\nport: {port}\nmax_payload: 4MB\njetstream {{ store_dir: {} }}\n",
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
