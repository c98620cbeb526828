//! The `eventboard` binary as a process, its log lines collected.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventboard::runner::Ready;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{broker, eventually};

/// A running `eventboard`. Dropping it kills it.
pub struct Process {
    pub ready: Ready,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts the binary with its data in `data_dir` and waits until it is ready.
    pub async fn start(data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_eventboard"))
            .env("EVENTBOARD_DATA_DIR", data_dir)
            .env("NATS_SERVER_BIN", broker::binary().await)
            .envs(environment.iter().copied())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("eventboard starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let collected = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                collected.lock().unwrap().push(line);
            }
        });
        let path = data_dir.join("ready.json");
        eventually("eventboard is ready", || async { path.exists() }).await;
        let ready = serde_json::from_slice(&std::fs::read(&path).expect("ready.json")).expect("its JSON");
        Self { ready, child, lines }
    }

    /// The log lines so far that hold `text`.
    pub fn lines_with(&self, text: &str) -> Vec<serde_json::Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter(|line| line.contains(text))
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("a running process")).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the signal is sent");
    }

    /// Waits for its end and returns whether it was a good one.
    pub async fn ended(&mut self) -> bool {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        ended.expect("eventboard ends").expect("its status").success()
    }
}

/// Whether a process exists.
pub fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}
