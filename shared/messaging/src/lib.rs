//! The message path: one connection, a caller with its own reply multiplexer, a server of NATS services.

mod bucket;
mod client;
mod conditional;
mod connection;
mod discovery;
mod drain;
pub mod headers;
pub mod idempotency;
mod incoming;
mod key_directory;
pub mod key_value;
mod liveness;
mod metrics;
mod multiplexer;
mod provision;
mod reply;
mod revocation_bucket;
mod server;
mod settings;

/// Bytes of a message that its headers may take of the broker's limit.
const HEADER_ALLOWANCE: usize = 8 * 1024;

pub use bucket::Bucket;
pub use client::{Call, CallError, Pong, Reply, RequestClient};
pub use connection::{ConnectError, Connection, RECONNECT_GRACE};
pub use key_directory::KeyDirectory;
pub use liveness::{ConnectionDead, watch_broker, watch_jetstream};
pub use provision::{ProvisionError, provision, watch_coverage};
pub use revocation_bucket::RevocationBucket;
pub use server::{ServeError, Server};
pub use settings::NatsSettings;
