//! What is decided about failures: pure rules, without a broker, a clock or a source of chance of their own.

pub(crate) mod breaker;
pub(crate) mod classify;
pub(crate) mod retry;
mod window;
