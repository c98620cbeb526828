//! Opens the workers' databases, migrates them, and says what a failed statement means.

mod measurements;
mod places;
mod postgres;
mod settings;
mod sqlite;
mod statements;
mod stored_time;
mod transaction;

use std::path::PathBuf;

use shared::contract::Failure;
use sqlx::migrate::Migrator;

pub use places::Lease;
pub use postgres::{Postgres, act_for};
pub use settings::{DatabaseSettings, DatabaseUrl, UnknownDatabase};
pub use sqlite::Sqlite;
pub use statements::Statements;
pub use stored_time::StoredTime;
pub use transaction::BoundedTransaction;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file cannot be opened, or a connection failed.
    #[error("cannot open the database: {0}")]
    Open(#[from] sqlx::Error),
    /// The server refused the connection for good.
    #[error("cannot connect to the database: {0}")]
    Refused(#[source] sqlx::Error),
    /// It answered, but not as a database of ours.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its schema could not be brought up to date.
    #[error("cannot migrate the database: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The directory of its file could not be made.
    #[error("cannot create {0}: {1}")]
    Directory(PathBuf, #[source] std::io::Error),
}

/// An older worker must start beside a newer one, whose migrations it does not know: they only add.
fn tolerate_newer(migrations: &mut Migrator) {
    migrations.set_ignore_missing(true);
}

/// Why a statement failed, where the caller did not expect it to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many are waiting for a connection already; nothing was done.
    #[error("too many wait for a connection to the database")]
    Busy,
    /// The database cannot be reached, or took too long; the transaction is undone.
    #[error("the database cannot be reached: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// The deadline passed before the change was committed; the transaction is undone.
    #[error("the deadline passed before the change was committed")]
    Expired,
    /// Two transactions stood in each other's way and this one was undone: it may be run again.
    #[error("two transactions collided: {0}")]
    Collision(#[source] sqlx::Error),
    /// The commit failed: whether it took effect before it did, nobody can say.
    #[error("a commit failed: {0}")]
    Commit(#[source] sqlx::Error),
    /// The statement or the row is not what the code expects.
    #[error("the database answered unexpectedly: {0}")]
    Defect(#[source] sqlx::Error),
    /// A stored value is none of those the code knows.
    #[error("a row holds an unknown {0}")]
    UnknownValue(&'static str),
}

/// What a database's own error code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Unusable,
    Collision,
    Other,
}

/// SQLite's codes are numbers; Postgres' are the five characters of SQLSTATE.
fn classify(code: &str) -> Code {
    if code.len() == 5 {
        return match code {
            // serialization_failure, deadlock_detected
            "40001" | "40P01" => Code::Collision,
            // query_canceled: statement_timeout. read_only_sql_transaction: a standby after a failover.
            // lock_not_available, idle_in_transaction_session_timeout.
            "57014" | "25006" | "55P03" | "25P03" => Code::Unusable,
            // Connection exceptions, insufficient resources, operator intervention, system errors, and a
            // server that turns us away.
            _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Code::Unusable,
            _ if turns_away(code) => Code::Unusable,
            _ => Code::Other,
        };
    }
    // BUSY, LOCKED, READONLY, IOERR, FULL and CANTOPEN, with their extended codes: the file cannot be
    // used at the moment, whatever the statement.
    match code.parse::<u32>() {
        Ok(code) if matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14) => Code::Unusable,
        _ => Code::Other,
    }
}

/// Invalid authorization, or no such database.
fn turns_away(sqlstate: &str) -> bool {
    sqlstate.starts_with("28") || sqlstate == "3D000"
}

/// Whether the server turns us away. Waiting does not help who has never been let in.
fn is_refusal(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| turns_away(&code))
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).map(|code| classify(&code));
        match (&error, code) {
            (_, Some(Code::Unusable))
            | (
                sqlx::Error::Io(_)
                // What sqlx calls a link that ends in the middle of a message.
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed,
                _,
            ) => Self::Unavailable(error),
            (_, Some(Code::Collision)) => Self::Collision(error),
            _ => Self::Defect(error),
        }
    }
}

impl StoreError {
    /// What a failed commit means: undone when two transactions collided, otherwise unknown.
    pub(crate) fn commit(error: sqlx::Error) -> Self {
        match Self::from(error) {
            Self::Collision(error) => Self::Collision(error),
            Self::Unavailable(error) | Self::Commit(error) | Self::Defect(error) => Self::Commit(error),
            other @ (Self::Busy | Self::Expired | Self::UnknownValue(_)) => other,
        }
    }
}

impl<E> From<StoreError> for Failure<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "the database is unavailable");
                Self::StoreUnavailable
            }
            StoreError::Collision(_) => {
                tracing::warn!(%error, "gave up after collisions");
                Self::Contended
            }
            StoreError::Busy => Self::Overloaded,
            StoreError::Expired => Self::Expired,
            StoreError::Commit(_) => Self::commit_unknown(&error),
            StoreError::Defect(_) | StoreError::UnknownValue(_) => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_to_try_again() {
        for (code, meaning) in [
            ("5", Code::Unusable),
            ("261", Code::Unusable),
            ("19", Code::Other),
            ("2067", Code::Other),
            ("40001", Code::Collision),
            ("40P01", Code::Collision),
            ("57014", Code::Unusable),
            ("57P01", Code::Unusable),
            ("08006", Code::Unusable),
            ("53300", Code::Unusable),
            ("23505", Code::Other),
            ("22021", Code::Other),
            ("28P01", Code::Unusable),
            ("3D000", Code::Unusable),
        ] {
            assert_eq!(classify(code), meaning, "{code}");
        }
    }
}
