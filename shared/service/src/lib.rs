//! How a process runs: start-up, admin port, HTTP server, signals.

mod admin;
pub mod demo;
pub mod http;
mod signals;
mod startup;

pub use admin::{AdminServer, ListenError, Status, health_routes, listen};
pub use signals::shutdown_on_signal;
pub use startup::{prepare_process, refuse_to_start, run_worker};

/// One thread frees what another has allocated: spans, log lines, messages. glibc's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
