//! Runs statements, each with a span and a place in the metrics.

use std::fmt;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use sqlx::error::BoxDynError;
use sqlx::{Database, Describe, Either, Error, Execute, Executor, SqlStr};

use crate::leaves_usable;
use crate::metrics::Measured;

/// A connection, for the statements that are run on it. It is the only way to one.
pub struct InstrumentedConnection<'c, DB: Database> {
    connection: &'c mut DB::Connection,
    /// Set by an error after which the connection must not be used any more.
    unusable: &'c mut bool,
    /// Whether what is prepared is kept for the next time.
    keeps_statements: bool,
}

impl<'c, DB: Database> InstrumentedConnection<'c, DB> {
    pub(crate) fn new(
        connection: &'c mut DB::Connection,
        unusable: &'c mut bool,
        keeps_statements: bool,
    ) -> Self {
        Self { connection, unusable, keeps_statements }
    }
}

impl<DB: Database> fmt::Debug for InstrumentedConnection<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstrumentedConnection").finish_non_exhaustive()
    }
}

/// A statement whose text has been looked at: asking a query for it uses the query up.
struct Seen<DB: Database> {
    text: SqlStr,
    arguments: Option<DB::Arguments>,
    persistent: bool,
}

impl<DB: Database> Seen<DB> {
    fn of<'q>(mut query: impl Execute<'q, DB>, keeps_statements: bool) -> Result<Self, Error> {
        let arguments = query.take_arguments().map_err(Error::Encode)?;
        let persistent = keeps_statements && query.persistent();
        Ok(Self { text: query.sql(), arguments, persistent })
    }

    fn measure(&self) -> Measured {
        Measured::statement::<DB>(self.text.as_str())
    }
}

impl<DB: Database> Execute<'_, DB> for Seen<DB> {
    fn sql(self) -> SqlStr {
        self.text
    }

    fn statement(&self) -> Option<&DB::Statement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

impl<'c, DB> Executor<'c> for InstrumentedConnection<'c, DB>
where
    DB: Database,
    for<'a> &'a mut DB::Connection: Executor<'a, Database = DB>,
{
    type Database = DB;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<DB::QueryResult, DB::Row>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        match Seen::of(query, self.keeps_statements) {
            Ok(seen) => {
                let mut measured = seen.measure();
                let Self { connection, unusable, .. } = self;
                let results = connection.fetch_many(seen);
                let see = move |result: &Result<Either<_, _>, Error>| match result {
                    Ok(Either::Right(_)) => measured.returned_row(),
                    Ok(Either::Left(_)) => measured.succeeded(),
                    Err(error) => {
                        measured.failed(error);
                        *unusable |= !leaves_usable(error);
                    }
                };
                results.inspect(see).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(async move {
            let seen = Seen::of(query, self.keeps_statements)?;
            let mut measured = seen.measure();
            let result = self.connection.fetch_optional(seen).await;
            match &result {
                Ok(Some(_)) => measured.returned_row(),
                Ok(None) => measured.succeeded(),
                Err(error) => {
                    measured.failed(error);
                    *self.unusable |= !leaves_usable(error);
                }
            }
            result
        })
    }

    fn prepare_with<'e>(
        self,
        text: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, Result<DB::Statement, Error>>
    where
        'c: 'e,
    {
        self.connection.prepare_with(text, parameters)
    }

    fn describe<'e>(self, text: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, Error>>
    where
        'c: 'e,
    {
        self.connection.describe(text)
    }
}
