//! Every suite that needs the running system, as one binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a failing test says what it expected by panicking"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod account_keys;
mod accounts;
mod auth_store;
mod bad_input;
mod broker_permissions;
mod cluster;
mod compose;
mod crashes;
mod documents;
mod edge;
mod event_store;
mod exactly_once;
mod failing_databases;
mod forged_headers;
mod hazards;
mod isolation;
mod key_rotation;
mod leases;
mod listing;
mod login_throttle;
mod messages;
mod metrics;
mod moderation;
mod overload;
mod peppers;
mod permissions;
mod postgres;
mod production;
mod resilience;
mod revocation;
mod rolling;
mod row_security;
mod runner;
mod secrets;
mod stalled_output;
mod storm;
mod tenants;
mod texts;
mod tls;
mod tokens;
mod trace_command;
mod traces;
