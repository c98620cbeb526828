//! Opens the workers' databases, migrates them, and says what a failed statement means.

mod sqlite;

use std::path::PathBuf;
use std::str::FromStr;

use shared::contract::Failure;

pub use sqlite::Sqlite;

/// Which database a worker uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// An SQLite file; the embedded default.
    Sqlite(PathBuf),
}

/// A database URL that names no database this version can open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected sqlite:<path>; this version opens no other database")]
pub struct UnknownDatabase;

impl FromStr for DatabaseUrl {
    type Err = UnknownDatabase;

    fn from_str(url: &str) -> Result<Self, UnknownDatabase> {
        let path = url.strip_prefix("sqlite:").ok_or(UnknownDatabase)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() { Err(UnknownDatabase) } else { Ok(Self::Sqlite(PathBuf::from(path))) }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be reached or read.
    #[error("cannot open the database: {0}")]
    Open(#[from] sqlx::Error),
    /// Its schema could not be brought up to date.
    #[error("cannot migrate the database: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The directory of its file could not be made.
    #[error("cannot create {0}: {1}")]
    Directory(PathBuf, #[source] std::io::Error),
}

/// Why a statement failed, where the caller did not expect it to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or has no connection to spare; the transaction is undone.
    #[error("the database cannot be reached: {0}")]
    Unavailable(#[source] sqlx::Error),
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

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // BUSY, LOCKED, READONLY, IOERR, FULL and CANTOPEN, with their extended codes: the file cannot be
        // used at the moment, whatever the statement.
        let unusable = error
            .as_database_error()
            .and_then(|error| error.code())
            .and_then(|code| code.parse::<u32>().ok())
            .is_some_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13 | 14));
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            error if unusable => Self::Unavailable(error),
            error => Self::Defect(error),
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
            StoreError::Commit(_) => Self::commit_unknown(&error),
            StoreError::Defect(_) | StoreError::UnknownValue(_) => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_file_or_are_refused() {
        assert_eq!("sqlite:///a/b.db".parse(), Ok(DatabaseUrl::Sqlite("/a/b.db".into())));
        assert_eq!("sqlite:b.db".parse(), Ok(DatabaseUrl::Sqlite("b.db".into())));
        for bad in ["", "sqlite:", "postgres://localhost/x", "b.db"] {
            assert_eq!(bad.parse::<DatabaseUrl>(), Err(UnknownDatabase), "{bad}");
        }
    }
}
