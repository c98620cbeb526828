//! EventBoard on one machine: a private broker and every service in one process.

pub mod chaos;
pub mod child_process;
pub mod healthcheck;
pub mod nats_server;
pub mod runner;
pub mod services;
pub mod trace;
