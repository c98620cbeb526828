//! How a process runs: one way for every worker, admin port, HTTP server, signals.

mod admin;
pub mod demo;
pub mod http;
mod process;
mod signals;
mod worker;

pub use admin::{AdminServer, ListenError, Status, health_routes, listen, usual_admin};
pub use process::{Addresses, Process, Ready, refuse_to_start, run_process, serve};
pub use signals::shutdown_on_signal;
pub use worker::{Background, Running, Worker, WorkerContext};

/// One thread frees what another has allocated: spans, log lines, messages. glibc's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
