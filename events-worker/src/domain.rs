//! The rules of moderation: no I/O, no clock, no SQL.

pub mod policy;
