//! What is counted of the databases, and said of each statement in its span.

use std::sync::LazyLock;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, UpDownCounter};
use opentelemetry_semantic_conventions::{attribute as key, metric};
use sqlx::{Database, Error};
use telemetry::metrics::{durations, meter};
use telemetry::span;
use tracing::Span;

struct Instruments {
    operations: Histogram<f64>,
    used: UpDownCounter<i64>,
    pending: UpDownCounter<i64>,
    waits: Histogram<f64>,
    timeouts: Counter<u64>,
    places: Gauge<u64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let level = |name, unit, description| {
        meter().i64_up_down_counter(name).with_unit(unit).with_description(description).build()
    };
    let timeouts = meter()
        .u64_counter(metric::DB_CLIENT_CONNECTION_TIMEOUTS)
        .with_unit("{timeout}")
        .with_description("Requests that were refused for want of a connection")
        .build();
    // Exported from the beginning, as zero.
    timeouts.add(0, &[]);
    Instruments {
        timeouts,
        operations: durations(metric::DB_CLIENT_OPERATION_DURATION, "How long statements took"),
        used: level(metric::DB_CLIENT_CONNECTION_COUNT, "{connection}", "Connections in use"),
        pending: level(
            metric::DB_CLIENT_CONNECTION_PENDING_REQUESTS,
            "{request}",
            "Requests that wait for a connection",
        ),
        waits: durations(metric::DB_CLIENT_CONNECTION_WAIT_TIME, "How long requests waited for a connection"),
        places: meter()
            .u64_gauge(metric::DB_CLIENT_CONNECTION_MAX)
            .with_unit("{connection}")
            .with_description("Connections that may be used at once")
            .build(),
    }
});

/// A pool, by the name that its figures go under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolName(pub(crate) &'static str);

impl PoolName {
    fn label(self) -> KeyValue {
        KeyValue::new(key::DB_CLIENT_CONNECTION_POOL_NAME, self.0)
    }

    /// Says how many connections there may be.
    pub(crate) fn holds(self, places: u32) {
        INSTRUMENTS.places.record(places.into(), &[self.label()]);
    }

    /// Counts one more who waits, until what is returned is dropped.
    pub(crate) fn waiting(self) -> Waiting {
        INSTRUMENTS.pending.add(1, &[self.label()]);
        Waiting { pool: self, begun: Instant::now() }
    }

    /// Counts one who was refused.
    pub(crate) fn refused(self) {
        INSTRUMENTS.timeouts.add(1, &[self.label()]);
    }

    /// Counts a connection as used, until what is returned is dropped.
    pub(crate) fn used(self) -> Used {
        INSTRUMENTS.used.add(1, &self.used_labels());
        Used(self)
    }

    fn used_labels(self) -> [KeyValue; 2] {
        [self.label(), KeyValue::new(key::DB_CLIENT_CONNECTION_STATE, "used")]
    }
}

/// A request that waits for a connection.
pub(crate) struct Waiting {
    pool: PoolName,
    begun: Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let label = [self.pool.label()];
        INSTRUMENTS.pending.add(-1, &label);
        INSTRUMENTS.waits.record(self.begun.elapsed().as_secs_f64(), &label);
    }
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Used(PoolName);

impl Drop for Used {
    fn drop(&mut self) {
        INSTRUMENTS.used.add(-1, &self.0.used_labels());
    }
}

/// A statement under way; accounted for when it is dropped.
pub(crate) struct Measured {
    span: Span,
    begun: Instant,
    system: &'static str,
    operation: &'static str,
    collection: String,
    /// How many came; `None` for what returns none.
    rows: Option<usize>,
    failure: Option<String>,
    /// Whether an answer has come: who stops waiting does not know how it would have ended.
    answered: bool,
}

impl Measured {
    /// A statement with this text.
    pub(crate) fn statement<DB: Database>(text: &str) -> Self {
        let (operation, collection) = summary(text);
        let span = span::statement(system::<DB>(), operation, collection, text);
        let mut statement = Self::step::<DB>(operation, span);
        statement.collection = collection.to_owned();
        statement.rows = Some(0);
        statement
    }

    /// The begin or end of a transaction.
    pub(crate) fn transaction<DB: Database>(operation: &'static str) -> Self {
        Self::step::<DB>(operation, span::statement(system::<DB>(), operation, "", operation))
    }

    fn step<DB: Database>(operation: &'static str, span: Span) -> Self {
        let (system, collection) = (system::<DB>(), String::new());
        Self {
            span,
            begun: Instant::now(),
            system,
            operation,
            collection,
            rows: None,
            failure: None,
            answered: false,
        }
    }

    pub(crate) fn returned_row(&mut self) {
        self.answered = true;
        self.rows = self.rows.map(|rows| rows + 1);
    }

    /// Notes that it has ended well.
    pub(crate) fn succeeded(&mut self) {
        self.answered = true;
    }

    pub(crate) fn failed(&mut self, error: &Error) {
        self.answered = true;
        self.failure = Some(failure(error));
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if !self.answered {
            self.failure = Some("cancelled".to_owned());
        }
        span::statement_ended(&self.span, self.rows, self.failure.as_deref());
        let mut labels = vec![
            KeyValue::new(key::DB_SYSTEM_NAME, self.system),
            KeyValue::new(key::DB_OPERATION_NAME, self.operation),
        ];
        if !self.collection.is_empty() {
            labels.push(KeyValue::new(key::DB_COLLECTION_NAME, std::mem::take(&mut self.collection)));
        }
        labels.extend(self.failure.take().map(|failure| KeyValue::new(key::ERROR_TYPE, failure)));
        INSTRUMENTS.operations.record(self.begun.elapsed().as_secs_f64(), &labels);
    }
}

/// The failure in one word: the database's own code, or what prevented it.
fn failure(error: &Error) -> String {
    let code = error.as_database_error().and_then(|error| error.code());
    code.map_or_else(
        || {
            let word = match error {
                Error::Io(_) | Error::Protocol(_) => "connection",
                Error::PoolTimedOut | Error::PoolClosed => "pool",
                _ => "client",
            };
            word.to_owned()
        },
        std::borrow::Cow::into_owned,
    )
}

/// The database as the semantic conventions call it.
fn system<DB: Database>() -> &'static str {
    if DB::NAME == "SQLite" { "sqlite" } else { "postgresql" }
}

/// What a statement does, and to which table: the first of each that is named.
fn summary(text: &str) -> (&'static str, &str) {
    const OPERATIONS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let word = |word: &str| OPERATIONS.into_iter().find(|known| word.eq_ignore_ascii_case(known));
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut words = text.split(|character| !is_part(character)).filter(|word| !word.is_empty());
    let operation = words.clone().find_map(word).unwrap_or("OTHER");
    let before_a_table =
        |word: &str| ["FROM", "INTO", "UPDATE"].into_iter().any(|known| word.eq_ignore_ascii_case(known));
    let mut collection = "";
    while words.any(before_a_table) {
        // After `FROM (SELECT` comes the table of that one.
        if let Some(next) = words.next().filter(|next| word(next).is_none()) {
            collection = next;
            break;
        }
    }
    (operation, collection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_named_by_what_they_do_and_to_which_table() {
        for (text, named) in [
            ("SELECT id, title FROM events WHERE id = ?", ("SELECT", "events")),
            ("INSERT INTO outcomes (a) VALUES ($1) ON CONFLICT DO NOTHING", ("INSERT", "outcomes")),
            ("UPDATE users SET role = $1 WHERE id = $2", ("UPDATE", "users")),
            ("DELETE FROM outcomes WHERE rowid IN (SELECT rowid FROM outcomes)", ("DELETE", "outcomes")),
            ("SELECT count(*) FROM (SELECT 1 FROM events LIMIT 10)", ("SELECT", "events")),
            ("SELECT set_config($1, $2, true)", ("SELECT", "")),
            ("PRAGMA optimize", ("OTHER", "")),
        ] {
            assert_eq!(summary(text), named, "{text}");
        }
    }

    #[test]
    fn failures_are_one_word() {
        assert_eq!(failure(&Error::PoolTimedOut), "pool");
        assert_eq!(failure(&Error::RowNotFound), "client");
        assert_eq!(failure(&Error::Io(std::io::ErrorKind::BrokenPipe.into())), "connection");
    }
}
