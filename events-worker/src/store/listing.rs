//! The statements behind a list: a merge of index walks, written for either database.

use contract::Timestamp;
use contract::auth::UserId;
use contract::events::{Event, EventStatus, SortBy, SortOrder};
use contract::text;
use uuid::Uuid;

use super::{Cursor, ListQuery, Listing, MAX_TOTAL, PageBegin, SortValue};

/// Where the databases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// A statement whose placeholders `$1`, `$2`, … stand for `values`.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
    dialect: Dialect,
}

/// A value to bind.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Id(Uuid),
    Number(i64),
    Text(String),
    Time(Timestamp),
}

/// One index walk: the rows of one organisation with one status, or by one creator.
#[derive(Debug, Clone, Copy)]
enum Walk {
    ByStatus { status: EventStatus, except_by: Option<UserId> },
    ByCreator { creator: UserId, status: Option<EventStatus> },
}

/// The walks whose rows together are exactly what the query may show, each row once.
fn walks(query: &ListQuery) -> Vec<Walk> {
    match query.only_visible_to {
        None => EventStatus::ALL
            .into_iter()
            .filter(|status| query.status.is_none_or(|wanted| wanted == *status))
            .map(|status| Walk::ByStatus { status, except_by: None })
            .collect(),
        Some(viewer) => {
            let mut walks = vec![Walk::ByCreator { creator: viewer, status: query.status }];
            if query.status.is_none_or(|wanted| wanted == EventStatus::Approved) {
                walks.push(Walk::ByStatus { status: EventStatus::Approved, except_by: Some(viewer) });
            }
            walks
        }
    }
}

const fn column(sort_by: SortBy) -> &'static str {
    match sort_by {
        SortBy::CreatedAt => "created_at",
        SortBy::StartDate => "start_date",
        SortBy::Title => "title",
        SortBy::Status => "status",
    }
}

const fn direction(order: SortOrder) -> (&'static str, &'static str) {
    match order {
        SortOrder::Asc => ("ASC", ">"),
        SortOrder::Desc => ("DESC", "<"),
    }
}

/// SQLite looks up terms of three characters and more in its trigram index; Postgres decides by itself.
fn is_looked_up(term: &str, dialect: Dialect) -> bool {
    dialect == Dialect::Sqlite && term.chars().count() >= 3
}

impl Statement {
    /// One page and one row more: the first rows of every walk, merged.
    pub(super) fn page(query: &ListQuery, dialect: Dialect) -> Self {
        let (direction, _) = direction(query.sort_order);
        let order = format!(" ORDER BY {} {direction}, id {direction} LIMIT ", column(query.sort_by));
        let skip = match query.begin {
            PageBegin::Skip(skip) => skip,
            PageBegin::After(_) => 0,
        };
        let rows = query.limit.saturating_add(1);
        let mut statement = Self::new(query, dialect);
        statement.push(
            "SELECT id, organization_id, created_by_id, title, description, location, start_date, end_date, \
             status, rejection_reason, created_at, updated_at, version FROM (",
        );
        statement.push_walks(query, "*", |statement| {
            if let PageBegin::After(cursor) = &query.begin {
                statement.push_after(query, cursor);
            }
            statement.push(&order).bind(Value::Number(skip.saturating_add(rows)));
        });
        statement.push(") AS walks").push(&order).bind(Value::Number(rows));
        statement.push(" OFFSET ").bind(Value::Number(skip));
        statement
    }

    /// How many rows match, counted up to [`MAX_TOTAL`].
    pub(super) fn count(query: &ListQuery, dialect: Dialect) -> Self {
        let mut statement = Self::new(query, dialect);
        let least = match dialect {
            Dialect::Sqlite => "min",
            Dialect::Postgres => "least",
        };
        statement.push("SELECT ").push(least).push("(count(*), ").bind(Value::Number(MAX_TOTAL));
        statement.push(") FROM (");
        statement.push_walks(query, "1", |statement| {
            statement.push(" LIMIT ").bind(Value::Number(MAX_TOTAL));
        });
        statement.push(") AS walks");
        statement
    }

    fn new(query: &ListQuery, dialect: Dialect) -> Self {
        let mut statement = Self { sql: String::new(), values: Vec::new(), dialect };
        if let Some(term) = folded(query).filter(|term| is_looked_up(term, dialect)) {
            let phrase = format!("\"{}\"", term.replace('"', "\"\""));
            statement
                .push("WITH matches AS MATERIALIZED (SELECT rowid FROM events_search WHERE events_search MATCH ")
                .bind(Value::Text(phrase))
                .push(") ");
        }
        statement
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn bind(&mut self, value: Value) -> &mut Self {
        self.values.push(value);
        let placeholder = format!("${}", self.values.len());
        self.push(&placeholder)
    }

    fn push_walks(&mut self, query: &ListQuery, columns: &str, finish: impl Fn(&mut Self)) {
        for (index, walk) in walks(query).into_iter().enumerate() {
            self.push(if index == 0 {
                "SELECT * FROM (SELECT "
            } else {
                " UNION ALL SELECT * FROM (SELECT "
            });
            self.push(columns).push(" FROM events WHERE ");
            self.push_walk(query, walk);
            finish(self);
            self.push(&format!(") AS walk_{index}"));
        }
    }

    fn push_walk(&mut self, query: &ListQuery, walk: Walk) {
        self.push("organization_id = ").bind(Value::Id(query.organization.0));
        match walk {
            Walk::ByStatus { status, except_by } => {
                self.push(" AND status = ").bind(Value::Text(status.as_str().to_owned()));
                if let Some(creator) = except_by {
                    self.push(" AND created_by_id <> ").bind(Value::Id(creator.0));
                }
            }
            Walk::ByCreator { creator, status } => {
                self.push(" AND created_by_id = ").bind(Value::Id(creator.0));
                if let Some(status) = status {
                    // The plus keeps this filter from luring SQLite's planner away from the creator's index.
                    self.push(match self.dialect {
                        Dialect::Sqlite => " AND +status = ",
                        Dialect::Postgres => " AND status = ",
                    });
                    self.bind(Value::Text(status.as_str().to_owned()));
                }
            }
        }
        if let Some(from) = query.start_date_from {
            self.push(" AND start_date >= ").bind(Value::Time(from));
        }
        if let Some(to) = query.start_date_to {
            self.push(" AND start_date <= ").bind(Value::Time(to));
        }
        if let Some(term) = folded(query) {
            self.push_search(term);
        }
    }

    fn push_search(&mut self, term: String) {
        match self.dialect {
            Dialect::Sqlite if is_looked_up(&term, self.dialect) => {
                self.push(" AND row IN (SELECT rowid FROM matches)");
            }
            Dialect::Sqlite => {
                self.push(" AND instr(search_text, ").bind(Value::Text(term)).push(") > 0");
            }
            Dialect::Postgres => {
                let mut pattern = String::from("%");
                for character in term.chars() {
                    if matches!(character, '%' | '_' | '\\') {
                        pattern.push('\\');
                    }
                    pattern.push(character);
                }
                pattern.push('%');
                self.push(" AND search_text LIKE ").bind(Value::Text(pattern));
            }
        }
    }

    fn push_after(&mut self, query: &ListQuery, cursor: &Cursor) {
        let (_, comparison) = direction(query.sort_order);
        self.push(&format!(" AND ({}, id) {comparison} (", column(query.sort_by)));
        self.bind(match &cursor.value {
            SortValue::Time(time) => Value::Time(*time),
            SortValue::Text(text) => Value::Text(text.clone()),
        });
        self.push(", ").bind(Value::Id(cursor.id.0)).push(")");
    }
}

fn folded(query: &ListQuery) -> Option<String> {
    query.search.as_deref().map(text::folded)
}

/// A page out of the rows of [`Statement::page`], of which the last only tells that more follow.
pub(super) fn listing(mut events: Vec<Event>, total: i64, query: &ListQuery) -> Listing {
    let limit = usize::try_from(query.limit).unwrap_or(0);
    let has_next = events.len() > limit;
    events.truncate(limit);
    Listing { events, has_next, total }
}
