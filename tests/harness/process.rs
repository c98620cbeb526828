//! Programs of this workspace as processes, their log lines collected.

use std::ffi::OsStr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventboard::runner::Ready;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use super::{broker, eventually};

/// The program `name`, built once per run: cargo builds those of other packages only when asked.
pub async fn program(name: &str) -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_init(|| build(&["--workspace", "--bins"])).await.join(name)
}

/// The worker `name` that ends at the point its `FAILPOINTS` name.
pub async fn failing_worker(name: &str) -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    #[rustfmt::skip]
    let arguments = [
        "-p", "events-worker", "-p", "auth-worker",
        "--features", "events-worker/failpoints,auth-worker/failpoints",
        "--bin", "events-worker-failpoints", "--bin", "auth-worker-failpoints",
    ];
    BUILT.get_or_init(|| build(&arguments)).await.join(format!("{name}-failpoints"))
}

/// Builds programs in the profile of this test, and returns where they are.
async fn build(arguments: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_eventboard")).parent().expect("a directory").to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked"]).args(arguments);
    cargo.arg("--target-dir").arg(directory.parent().expect("the target directory"));
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().await.expect("cargo runs");
    assert!(built.success(), "the programs do not build");
    directory
}

/// The path that one of the project's scripts prints: a program or a directory that it finds or installs.
pub async fn found_by(script: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(&script).stderr(Stdio::inherit()).output().await.expect("the script runs");
    assert!(output.status.success(), "{} finds nothing", script.display());
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// A running process. Dropping it kills it.
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `program` with these variables and `PATH`, and no others.
    pub fn start<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        program: &Path,
        arguments: &[&str],
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let collected = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                collected.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    /// The log lines so far that hold `text`.
    pub fn lines_with(&self, text: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter(|line| line.contains(text))
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    /// The line that says it is ready, once it does.
    pub async fn ready_line(&self) -> Value {
        let ready = || self.lines_with("\"ready\"").into_iter().find(|line| line["message"] == "ready");
        eventually("the service is ready", || async { ready().is_some() }).await;
        ready().expect("the line that was just there")
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("a running process")).expect("a pid")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the signal is sent");
    }

    /// Waits for its end and returns whether it was a good one.
    pub async fn ended(&mut self) -> bool {
        self.status().await.success()
    }

    /// Waits for its end.
    pub async fn status(&mut self) -> std::process::ExitStatus {
        let ended = tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await;
        ended.expect("the process ends").expect("its status")
    }
}

/// A running `eventboard`. Dropping it kills it.
pub struct Runner {
    pub ready: Ready,
    process: Process,
}

impl Runner {
    /// Starts the binary with its data in `data_dir` and waits until it is ready.
    pub async fn start(data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        let own = [
            ("EVENTBOARD_DATA_DIR", data_dir.as_os_str().to_owned()),
            ("NATS_SERVER_BIN", broker::binary().await.into()),
        ];
        let given = environment.iter().map(|(name, value)| (*name, OsStr::new(value).to_owned()));
        // Whoever runs the tests may ignore SIGHUP, as nohup does, and every child inherits that.
        let arguments = ["--default-signal=HUP", env!("CARGO_BIN_EXE_eventboard")];
        let process = Process::start(Path::new("env"), &arguments, own.into_iter().chain(given));
        let path = data_dir.join("ready.json");
        eventually("eventboard is ready", || async { path.exists() }).await;
        let ready = serde_json::from_slice(&std::fs::read(&path).expect("ready.json")).expect("its JSON");
        Self { ready, process }
    }
}

impl Deref for Runner {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Runner {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Whether a process exists.
pub fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}
