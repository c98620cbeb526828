//! The private broker of the all-in-one system, kept alive on its port.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use messaging::{NatsSettings, provision};
use nats_server::{Broker, find_nats_server, tools};
use tokio_util::sync::CancellationToken;

use crate::runner::{RESTART_DELAY, Ready, free, write_ready};

/// The private broker, kept alive on its port.
pub(crate) struct PrivateBroker {
    pub(crate) broker: Broker,
    binary: PathBuf,
    directory: PathBuf,
    data_dir: PathBuf,
}

impl PrivateBroker {
    pub(crate) async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let binary = find_nats_server(&tools(data_dir)).await?;
        let directory = data_dir.join("nats");
        let usual = free(SocketAddr::from((Ipv4Addr::LOCALHOST, 4222))).map(|address| address.port());
        let broker = match Broker::start(&binary, &directory, usual).await {
            // Another process was faster to take the usual port.
            Err(_) if usual.is_some() => Broker::start(&binary, &directory, None).await?,
            started => started?,
        };
        if Some(broker.port()) != usual {
            tracing::info!(
                port = broker.port(),
                "port 4222 is taken; the private NATS server uses another one"
            );
        }
        Ok(Self { broker, binary, directory, data_dir: data_dir.to_owned() })
    }

    async fn restart(&mut self, port: u16) -> anyhow::Result<()> {
        self.broker = Broker::start(&self.binary, &self.directory, Some(port)).await?;
        self.announce_pid()?;
        // Its files may have been lost.
        Ok(provision(&NatsSettings::at(self.broker.url()), 1).await?)
    }

    /// Brings `ready.json` up to date, if it has been written.
    fn announce_pid(&self) -> anyhow::Result<()> {
        let Ok(text) = std::fs::read(self.data_dir.join("ready.json")) else { return Ok(()) };
        let mut ready: Ready = serde_json::from_slice(&text)?;
        ready.pids.nats_server = Some(self.broker.pid());
        write_ready(&self.data_dir, &ready)
    }

    /// Starts the broker again whenever it ends, until `stop`.
    pub(crate) async fn keep(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.broker.stop().await;
                    return Ok(());
                }
                () = self.broker.ended() => tracing::error!("the NATS server ended; starting it again"),
            }
            let port = self.broker.port();
            while let Err(error) = self.restart(port).await {
                tracing::error!(error = format!("{error:#}"), "the NATS server does not start; trying again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RESTART_DELAY) => {}
                }
            }
        }
    }
}
