//! EventBoard on one machine: a private broker and every service in one process.

pub mod broker;
pub mod chaos;
pub mod healthcheck;
pub mod kept;
pub mod runner;
pub mod trace;
