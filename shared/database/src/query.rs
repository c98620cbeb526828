//! A statement with its values, for either database.

use std::borrow::Cow;

use contract::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Arguments, AssertSqlSafe, Encode, Error, FromRow, SqlSafeStr, SqlStr, Type};
use uuid::Uuid;

use crate::StoredTime;
use crate::database::{Dialect, Executor};

/// The text of a statement, with `$1`, `$2`, … for its values: one for both databases, made from a `&str`, or
/// one for each where they differ.
#[derive(Debug, Clone, Copy)]
pub struct Sql {
    /// For SQLite.
    pub sqlite: &'static str,
    /// For Postgres.
    pub postgres: &'static str,
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// A value to bind.
#[derive(Debug, Clone)]
pub enum Value<'q> {
    /// An id.
    Id(Uuid),
    /// A whole number.
    Number(Option<i64>),
    /// A text.
    Text(Option<Cow<'q, str>>),
    /// Bytes.
    Bytes(Option<Cow<'q, [u8]>>),
    /// A point in time, stored as [`StoredTime`].
    Time(Option<Timestamp>),
}

/// A row that both databases return.
pub trait Record:
    for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin + 'static
{
}

impl<R> Record for R where
    R: for<'r> FromRow<'r, PgRow> + for<'r> FromRow<'r, SqliteRow> + Send + Unpin + 'static
{
}

#[derive(Debug)]
enum Text {
    Fixed(Sql),
    Composed(SqlStr),
}

/// A statement and its values.
#[derive(Debug)]
pub struct Query<'q> {
    text: Text,
    values: Vec<Value<'q>>,
}

/// The query `sql`, whose values are still to be bound.
pub fn query<'q>(sql: impl Into<Sql>) -> Query<'q> {
    Query { text: Text::Fixed(sql.into()), values: Vec::new() }
}

impl<'q> Query<'q> {
    /// A query whose text was put together for one dialect, of literals and placeholders only: what callers
    /// send stands among the values.
    pub fn composed(text: AssertSqlSafe<String>, values: Vec<Value<'q>>) -> Self {
        Self { text: Text::Composed(text.into_sql_str()), values }
    }

    /// Binds the next value.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    fn prepare<DB>(self, dialect: Dialect) -> Result<(SqlStr, DB::Arguments), Error>
    where
        DB: sqlx::Database,
        for<'v> Uuid: Encode<'v, DB> + Type<DB>,
        for<'v> Option<i64>: Encode<'v, DB> + Type<DB>,
        for<'v> Option<&'v str>: Encode<'v, DB> + Type<DB>,
        for<'v> Option<&'v [u8]>: Encode<'v, DB> + Type<DB>,
        for<'v> Option<StoredTime>: Encode<'v, DB> + Type<DB>,
    {
        let mut arguments = DB::Arguments::default();
        for value in &self.values {
            match value {
                Value::Id(id) => arguments.add(*id),
                Value::Number(number) => arguments.add(*number),
                Value::Text(text) => arguments.add(text.as_deref()),
                Value::Bytes(bytes) => arguments.add(bytes.as_deref()),
                Value::Time(time) => arguments.add(time.map(StoredTime)),
            }
            .map_err(Error::Encode)?;
        }
        let text = match self.text {
            Text::Fixed(sql) => match dialect {
                Dialect::Sqlite => sql.sqlite.into_sql_str(),
                Dialect::Postgres => sql.postgres.into_sql_str(),
            },
            Text::Composed(text) => text,
        };
        Ok((text, arguments))
    }

    /// Runs it; returns how many rows it changed.
    ///
    /// # Errors
    /// What the database says.
    pub async fn execute(self, on: impl Into<Executor<'_>>) -> Result<u64, Error> {
        match on.into() {
            Executor::Sqlite(connection) => {
                let (text, values) = self.prepare::<sqlx::Sqlite>(Dialect::Sqlite)?;
                Ok(sqlx::query_with(text, values).execute(connection).await?.rows_affected())
            }
            Executor::Postgres(connection) => {
                let (text, values) = self.prepare::<sqlx::Postgres>(Dialect::Postgres)?;
                Ok(sqlx::query_with(text, values).execute(connection).await?.rows_affected())
            }
        }
    }

    /// Runs it; returns its rows.
    ///
    /// # Errors
    /// What the database says, and a row that is no `R`.
    pub async fn fetch_all<R: Record>(self, on: impl Into<Executor<'_>>) -> Result<Vec<R>, Error> {
        match on.into() {
            Executor::Sqlite(connection) => {
                let (text, values) = self.prepare::<sqlx::Sqlite>(Dialect::Sqlite)?;
                sqlx::query_as_with(text, values).fetch_all(connection).await
            }
            Executor::Postgres(connection) => {
                let (text, values) = self.prepare::<sqlx::Postgres>(Dialect::Postgres)?;
                sqlx::query_as_with(text, values).fetch_all(connection).await
            }
        }
    }

    /// Runs it; returns its first row.
    ///
    /// # Errors
    /// What the database says, and a row that is no `R`.
    pub async fn fetch_optional<R: Record>(self, on: impl Into<Executor<'_>>) -> Result<Option<R>, Error> {
        match on.into() {
            Executor::Sqlite(connection) => {
                let (text, values) = self.prepare::<sqlx::Sqlite>(Dialect::Sqlite)?;
                sqlx::query_as_with(text, values).fetch_optional(connection).await
            }
            Executor::Postgres(connection) => {
                let (text, values) = self.prepare::<sqlx::Postgres>(Dialect::Postgres)?;
                sqlx::query_as_with(text, values).fetch_optional(connection).await
            }
        }
    }
}

impl From<Uuid> for Value<'_> {
    fn from(id: Uuid) -> Self {
        Self::Id(id)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Number(Some(number.into()))
    }
}

impl From<u16> for Value<'_> {
    fn from(number: u16) -> Self {
        Self::Number(Some(number.into()))
    }
}

impl<'q> From<&'q str> for Value<'q> {
    fn from(text: &'q str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'q> From<&'q String> for Value<'q> {
    fn from(text: &'q String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl<'q> From<Option<&'q str>> for Value<'q> {
    fn from(text: Option<&'q str>) -> Self {
        Self::Text(text.map(Cow::from))
    }
}

impl<'q> From<&'q Option<String>> for Value<'q> {
    fn from(text: &'q Option<String>) -> Self {
        text.as_deref().into()
    }
}

impl<'q> From<&'q [u8]> for Value<'q> {
    fn from(bytes: &'q [u8]) -> Self {
        Self::Bytes(Some(bytes.into()))
    }
}

impl<'q> From<Option<&'q [u8]>> for Value<'q> {
    fn from(bytes: Option<&'q [u8]>) -> Self {
        Self::Bytes(bytes.map(Cow::from))
    }
}

impl From<Option<Vec<u8>>> for Value<'_> {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        Self::Bytes(bytes.map(Cow::from))
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Time(Some(time))
    }
}

impl From<Option<Timestamp>> for Value<'_> {
    fn from(time: Option<Timestamp>) -> Self {
        Self::Time(time)
    }
}
