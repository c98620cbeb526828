//! What every EventBoard service shares: the contract, the message path, identity and the runtime around them.

pub mod contract;
pub mod crash_point;
pub mod demo;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod identity;
pub mod key_value;
pub mod messaging;
pub mod metrics;
pub mod ops;
pub mod revocations;
pub mod settings;
pub mod telemetry;

/// One thread frees what another has allocated: spans, log lines, messages. glibc's allocator is slow at that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
