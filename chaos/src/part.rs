//! A part of the system, as a process that can be killed and started again where it was.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::{Child, Command};

/// A part of the system, as a process that can be killed and started again where it was.
pub(crate) struct Part {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<&'static str>,
    pub(crate) service: &'static str,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) log: PathBuf,
    pub(crate) child: Option<Child>,
}

impl Part {
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.service))?;
        self.child = Some(child);
        Ok(())
    }

    /// Starts it anew if it has failpoints, without them: the checker reads what is there.
    pub(crate) async fn recover(&mut self) -> anyhow::Result<()> {
        let before = self.environment.len();
        self.environment.retain(|(name, _)| *name != "FAILPOINTS");
        if self.environment.len() < before {
            self.kill().await;
            self.start()?;
        }
        Ok(())
    }

    /// Starts it again if it has ended by itself.
    fn revive(&mut self) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        let Some(status) = child.try_wait()? else { return Ok(false) };
        tracing::debug!(service = self.service, %status, "a part has ended by itself");
        self.start()?;
        Ok(true)
    }

    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails when it has ended by itself.
            let _ = child.kill().await;
        }
    }
}

/// Starts again what has ended by itself, and returns how many parts that were.
pub(crate) fn revive(parts: &mut [Part]) -> anyhow::Result<usize> {
    parts.iter_mut().try_fold(0, |revived, part| Ok(revived + usize::from(part.revive()?)))
}
