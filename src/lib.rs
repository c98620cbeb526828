//! EventBoard on one machine: a private broker and every service in one process.

pub mod healthcheck;
mod private_broker;
pub mod runner;
pub mod services;
pub mod trace;
