//! Opens the workers' databases, migrates them, and says what a failed statement means.

mod admission;
mod answered_row;
mod connection;
mod database;
mod instrumented;
mod metrics;
mod postgres;
mod query;
mod settings;
mod sqlite;
mod stored_time;
mod transaction;

use std::path::PathBuf;

use contract::Failure;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub use admission::PooledConnection;
pub use answered_row::{Answered, AnsweredRow};
pub use database::{Database, Dialect, Executor, Migrations, Reader, Transaction};
pub use postgres::{Postgres, act_for};
pub use query::{Query, Record, Sql, Value, query};
pub use settings::{DatabaseSettings, DatabaseUrl, UnknownDatabase};
pub use sqlite::Sqlite;
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
    /// A pooler between the worker and Postgres loses prepared statements; nothing was done.
    #[error(
        "prepared statements get lost on their way to Postgres, as PgBouncer in transaction mode loses them: let it keep \
         them (1.21 or later, max_prepared_statements), or set EVENTBOARD_DATABASE_STATEMENT_CACHE=0 ({0})"
    )]
    Pooler(#[source] sqlx::Error),
    /// A transaction could not begin in time, because the database is locked or does not answer; nothing was done.
    #[error("a transaction could not begin in time")]
    NotBegun,
    /// The deadline passed before the change was committed; the transaction is undone.
    #[error("the deadline passed before the change was committed")]
    Expired,
    /// Two transactions stood in each other's way and this one was undone: it may be run again.
    #[error("two transactions collided: {0}")]
    Collision(#[source] sqlx::Error),
    /// A write with this key has been answered already; the transaction is undone.
    #[error("a write with this key has been answered")]
    AlreadyAnswered,
    /// The commit failed: it is unknown whether it took effect before.
    #[error("a commit failed: {0}")]
    Commit(#[source] sqlx::Error),
    /// The statement or the row is not what the code expects.
    #[error("the database answered unexpectedly: {0}")]
    Defect(#[source] sqlx::Error),
    /// A stored value is none of those the code knows.
    #[error("a row holds an unknown {0}")]
    UnknownValue(&'static str),
}

/// SQLite's code of a disk without room.
const FULL: &str = "13";

/// What a database's own error code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Unusable,
    Pooler,
    Collision,
    Other,
}

/// SQLite's codes are numbers; Postgres' are the five characters of SQLSTATE.
fn classify(code: &str) -> Code {
    if code.len() == 5 {
        return match code {
            // serialization_failure, deadlock_detected
            "40001" | "40P01" => Code::Collision,
            // invalid_sql_statement_name, duplicate_prepared_statement
            "26000" | "42P05" => Code::Pooler,
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

/// Whether a connection may go on after this error, once its transaction is undone. Only after what is known to
/// say something about a statement, a row, a lock or the server's room: a new connection costs milliseconds, one
/// that cannot do its work fails every request it is given to.
pub(crate) fn leaves_usable(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::Database(error) => error.code().is_some_and(|code| is_harmless(&code)),
        // What became of a value or a row, on our side.
        E::RowNotFound
        | E::TypeNotFound { .. }
        | E::ColumnIndexOutOfBounds { .. }
        | E::ColumnNotFound(_)
        | E::ColumnDecode { .. }
        | E::Encode(_)
        | E::Decode(_) => true,
        _ => false,
    }
}

fn is_harmless(code: &str) -> bool {
    if code.len() == 5 {
        // Data, constraints, a failed transaction, its rollback, syntax and access rules, what is missing or in use;
        // query_canceled and lock_not_available.
        // What a server says of its own state is not among them: 25006 that it takes no writes, 57P01 that it ends.
        if code == "42P05" {
            return false;
        }
        let classes = ["0A", "21", "22", "23", "40", "42", "44", "53", "54", "55", "P0"];
        return classes.iter().any(|class| code.starts_with(class)) || matches!(code, "25P02" | "57014");
    }
    // BUSY, LOCKED, TOOBIG, CONSTRAINT and MISMATCH. After FULL or IOERR, SQLite has undone the transaction by
    // itself, which its driver does not notice.
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 18 | 19 | 20))
}

/// Invalid authorization, or no such database.
fn turns_away(sqlstate: &str) -> bool {
    sqlstate.starts_with("28") || sqlstate == "3D000"
}

/// Whether the server turns us away. Waiting does not help who has never been let in.
fn is_refusal(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| turns_away(&code))
}

/// What the database's own code says of this error, if it has one.
fn meaning(error: &sqlx::Error) -> Option<Code> {
    let error = error.as_database_error()?;
    let code = error.code()?;
    let severity = error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::severity);
    // protocol_violation: a statement of another connection takes other parameters. A pooler that cannot reach the
    // server uses the same code, and ends the connection by it.
    let is_misplaced = code == "08P01" && severity == Some(PgSeverity::Error);
    Some(if is_misplaced { Code::Pooler } else { classify(&code) })
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = meaning(&error);
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
            (_, Some(Code::Pooler)) => Self::Pooler(error),
            _ => Self::Defect(error),
        }
    }
}

impl StoreError {
    /// What a failed commit means: undone when two transactions collided or SQLite had no room for it, otherwise
    /// unknown.
    pub(crate) fn commit(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        let had_no_room = code.is_some_and(|code| code == FULL);
        match Self::from(error) {
            // What marks a transaction in the log as committed is written last.
            Self::Unavailable(error) if had_no_room => Self::Unavailable(error),
            Self::Collision(error) => Self::Collision(error),
            Self::Unavailable(error) | Self::Pooler(error) | Self::Commit(error) | Self::Defect(error) => {
                Self::Commit(error)
            }
            other @ (Self::Busy
            | Self::NotBegun
            | Self::AlreadyAnswered
            | Self::Expired
            | Self::UnknownValue(_)) => other,
        }
    }
}

impl<E> From<StoreError> for Failure<E> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Pooler(_) | StoreError::NotBegun => {
                tracing::warn!(%error, "the database is unavailable");
                Self::StoreUnavailable
            }
            StoreError::Collision(_) => {
                tracing::warn!(%error, "gave up after collisions");
                Self::Contended
            }
            // The answer is on its way to where it can be read.
            StoreError::AlreadyAnswered => Self::Contended,
            StoreError::Busy => Self::Overloaded,
            StoreError::Expired => Self::Expired,
            StoreError::Commit(_) => Self::commit_unknown(&error),
            StoreError::Defect(_) | StoreError::UnknownValue(_) => Self::internal(&error),
        }
    }
}

/// Why a database does not pass its health check. Public: without the reason, which may name what is
/// not public.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// It does not answer.
    #[error("cannot be reached")]
    Unreachable(#[source] StoreError),
    /// It answers, and takes no changes.
    #[error("cannot be written")]
    NotWritable(#[source] Option<StoreError>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_kept_after_what_says_nothing_about_them() {
        for code in
            ["23505", "40001", "40P01", "57014", "55P03", "25P02", "22021", "53100", "5", "261", "2067"]
        {
            assert!(is_harmless(code), "{code}");
        }
        for code in ["25006", "57P01", "57P02", "57P03", "25P03", "08006", "58030", "XX000", "26000"] {
            assert!(!is_harmless(code), "{code}");
        }
        for code in ["13", "10", "778", "8", "11", "14", "26", "1", "7", "x"] {
            assert!(!is_harmless(code), "{code}");
        }
        assert!(leaves_usable(&sqlx::Error::RowNotFound));
        assert!(!leaves_usable(&sqlx::Error::InvalidSavePointStatement));
        assert!(!leaves_usable(&sqlx::Error::WorkerCrashed));
    }

    #[test]
    fn codes_say_whether_to_try_again() {
        for (code, meaning) in [
            ("5", Code::Unusable),
            ("261", Code::Unusable),
            ("19", Code::Other),
            ("2067", Code::Other),
            ("40001", Code::Collision),
            ("40P01", Code::Collision),
            ("26000", Code::Pooler),
            ("42P05", Code::Pooler),
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
