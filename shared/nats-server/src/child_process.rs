//! A child process that never outlives this one, however this one dies.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

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

/// How long the child may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running child. Dropping it, or the death of this process, ends it with SIGTERM.
#[derive(Debug)]
pub struct ChildProcess {
    keeper: Child,
    pipe: Option<ChildStdin>,
    pid: i32,
}

impl ChildProcess {
    /// Starts `command`, as another user when `user` is given; its output goes nowhere.
    ///
    /// # Errors
    /// When no shell can be started.
    pub async fn start<S: AsRef<OsStr>>(
        command: impl IntoIterator<Item = S>,
        user: Option<u32>,
    ) -> anyhow::Result<Self> {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", KEEPER, "eventboard-keeper"])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C is for us alone: the child must outlive those who still need it.
            .process_group(0);
        if let Some(user) = user {
            shell.uid(user).gid(user);
        }
        let mut keeper = shell.spawn().context("cannot start a shell")?;
        let pipe = keeper.stdin.take();
        let mut lines = BufReader::new(keeper.stdout.take().context("the shell has no output")?).lines();
        let pid = lines.next_line().await?.context("the child did not start")?.parse()?;
        Ok(Self { keeper, pipe, pid })
    }

    /// The process id of the child itself.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to the child itself.
    pub fn signal(&self, signal: Signal) {
        // Fails when it has ended already.
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// Whether the child has ended.
    ///
    /// # Errors
    /// When the child cannot be waited for.
    pub fn has_ended(&mut self) -> std::io::Result<bool> {
        Ok(self.keeper.try_wait()?.is_some())
    }

    /// Resolves when the child has ended.
    pub async fn ended(&mut self) {
        if let Err(error) = self.keeper.wait().await {
            tracing::error!(%error, "cannot wait for a child process");
        }
    }

    /// Ends the child and waits until it has ended.
    pub async fn stop(mut self) {
        drop(self.pipe.take());
        if tokio::time::timeout(STOP_TIMEOUT, self.keeper.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.keeper.wait().await;
        }
    }
}
