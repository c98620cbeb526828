//! The services of the system: as processes of their own, and as parts of the all-in-one process.

use std::net::SocketAddr;
use std::process::ExitCode;

use auth_worker::AuthWorker;
use clap::Subcommand;
use contract::SERVICES;
use database::DatabaseSettings;
use events_worker::EventsWorker;
use futures_util::future::BoxFuture;
use gateway::Gateway;
use messaging::NatsSettings;
use service::{Process, Ready};
use settings::Environment;
use tokio_util::sync::CancellationToken;

use crate::runner;

/// A service as a process of its own.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// HTTP in, one NATS message out
    Gateway {
        /// Its settings.
        #[command(flatten)]
        config: gateway::Config,
    },
    /// Answers auth.* on NATS
    AuthWorker {
        /// What to do instead of serving.
        #[command(subcommand)]
        command: Option<auth_worker::Command>,
        /// Its settings.
        #[command(flatten)]
        config: auth_worker::Config,
    },
    /// Answers events.* on NATS
    EventsWorker {
        /// Its settings.
        #[command(flatten)]
        config: events_worker::Config,
    },
}

impl Service {
    /// Its name in log lines and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gateway { .. } => Gateway::NAME,
            Self::AuthWorker { .. } => AuthWorker::NAME,
            Self::EventsWorker { .. } => EventsWorker::NAME,
        }
    }

    /// Serves until a signal asks to stop.
    ///
    /// # Errors
    /// As [`service::serve`].
    pub async fn serve(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Gateway { config } => service::serve::<Gateway>(config).await,
            Self::AuthWorker { command: Some(command), config } => {
                auth_worker::run_command(&config, command).await
            }
            Self::AuthWorker { command: None, config } => service::serve::<AuthWorker>(config).await,
            Self::EventsWorker { config } => service::serve::<EventsWorker>(config).await,
        }
    }
}

/// The names of all services, and their usual admin ports.
pub fn all() -> impl Iterator<Item = (&'static str, u16)> {
    let workers = SERVICES.iter().map(|service| (service.worker, service.admin_port));
    std::iter::once((Gateway::NAME, gateway::ADMIN_PORT)).chain(workers)
}

type RunningPart = BoxFuture<'static, anyhow::Result<()>>;

/// A service as a part of the all-in-one process, which is run again when it fails.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    run: Box<dyn Fn(Ready, CancellationToken) -> RunningPart + Send + Sync>,
}

impl Part {
    fn of<P: Process>(config: P::Config) -> Self {
        let run = move |ready, shutdown| -> RunningPart { Box::pin(P::run(config.clone(), ready, shutdown)) };
        Self { name: P::NAME, run: Box::new(run) }
    }

    pub(crate) fn run(&self, ready: Ready, shutdown: CancellationToken) -> RunningPart {
        (self.run)(ready, shutdown)
    }
}

/// The workers with the runner's settings, and the admin port of each.
pub(crate) fn workers(
    config: &runner::Config,
    nats: &NatsSettings,
    admin: impl Fn(&'static str) -> SocketAddr,
) -> Vec<Part> {
    let auth = auth_worker::Config {
        admin: admin(AuthWorker::NAME),
        nats: nats.clone(),
        database: DatabaseSettings::at(config.auth_database_url.clone()),
        data_dir: config.data_dir.clone(),
        signing_key: None,
        signing_key_file: None,
        password_pepper: None,
        password_pepper_file: None,
        password_threads: None,
        demo: config.demo,
        env: Environment::Development,
    };
    let events = events_worker::Config {
        admin: admin(EventsWorker::NAME),
        nats: nats.clone(),
        database: DatabaseSettings::at(config.events_database_url.clone()),
        data_dir: config.data_dir.clone(),
        demo: config.demo,
        env: Environment::Development,
    };
    vec![Part::of::<AuthWorker>(auth), Part::of::<EventsWorker>(events)]
}

/// The gateway with the runner's settings.
pub(crate) fn gateway(
    config: &runner::Config,
    nats: &NatsSettings,
    http: SocketAddr,
    admin: SocketAddr,
) -> Part {
    Part::of::<Gateway>(gateway::Config {
        http,
        admin,
        nats: nats.clone(),
        cors_origins: config.cors_origins.clone(),
        header_timeout: 30,
        idle_timeout: 75,
        max_connections: 4096,
        max_in_flight: 256,
        breakers: true,
        rate_limit_user: config.rate_limit_user,
        rate_limit_ip: config.rate_limit_ip,
        trusted_hops: 0,
        // No load balancer stands before it.
        drain_delay: 0,
        env: Environment::Development,
    })
}
