//! The statements behind a list: a merge of index walks, written for either database.

use contract::auth::UserId;
use contract::events::{Event, EventStatus, SortBy, SortOrder};
use contract::text;
use database::{Dialect, Query, Value};
use sqlx::AssertSqlSafe;
use strum::VariantArray;

use super::{Cursor, ListQuery, Listing, MAX_TOTAL, PageBegin, SortValue};

/// A statement whose placeholders `$1`, `$2`, … stand for `values`.
#[derive(Debug, Clone)]
struct Statement {
    sql: String,
    values: Vec<Value<'static>>,
    dialect: Dialect,
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
        None => EventStatus::VARIANTS
            .iter()
            .copied()
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

/// One page and one row more: the first rows of every walk, merged.
pub(super) fn page(query: &ListQuery, dialect: Dialect) -> Query<'static> {
    let (direction, _) = direction(query.sort_order);
    let order = format!(" ORDER BY {} {direction}, id {direction} LIMIT ", column(query.sort_by));
    let skip = match query.begin {
        PageBegin::Skip(skip) => skip,
        PageBegin::After(_) => 0,
    };
    let rows = query.limit.saturating_add(1);
    let mut statement = Statement::new(query, dialect);
    statement.push(
        "SELECT id, organization_id, created_by_id, title, description, location, start_date, end_date, \
         status, rejection_reason, created_at, updated_at, version FROM (",
    );
    statement.push_walks(query, "*", |statement| {
        if let PageBegin::After(cursor) = &query.begin {
            statement.push_after(query, cursor);
        }
        statement.push(&order).bind(skip.saturating_add(rows));
    });
    statement.push(") AS walks").push(&order).bind(rows);
    statement.push(" OFFSET ").bind(skip);
    statement.into_query()
}

/// How many rows match, counted up to [`MAX_TOTAL`].
pub(super) fn count(query: &ListQuery, dialect: Dialect) -> Query<'static> {
    let mut statement = Statement::new(query, dialect);
    let least = match dialect {
        Dialect::Sqlite => "min",
        Dialect::Postgres => "least",
    };
    statement.push("SELECT ").push(least).push("(count(*), ").bind(MAX_TOTAL);
    statement.push(") FROM (");
    statement.push_walks(query, "1", |statement| {
        statement.push(" LIMIT ").bind(MAX_TOTAL);
    });
    statement.push(") AS walks");
    statement.into_query()
}

impl Statement {
    fn new(query: &ListQuery, dialect: Dialect) -> Self {
        let mut statement = Self { sql: String::new(), values: Vec::new(), dialect };
        if let Some(term) = folded(query).filter(|term| is_looked_up(term, dialect)) {
            let phrase = format!("\"{}\"", term.replace('"', "\"\""));
            statement
                .push("WITH matches AS MATERIALIZED (SELECT rowid FROM events_search WHERE events_search MATCH ")
                .bind(phrase)
                .push(") ");
        }
        statement
    }

    fn into_query(self) -> Query<'static> {
        // Built from literals and placeholders only; what callers sent is among the values.
        Query::composed(AssertSqlSafe(self.sql), self.values)
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn bind(&mut self, value: impl Into<Value<'static>>) -> &mut Self {
        self.values.push(value.into());
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
        self.push("organization_id = ").bind(query.organization.0);
        match walk {
            Walk::ByStatus { status, except_by } => {
                self.push(" AND status = ").bind(status.as_str().to_owned());
                if let Some(creator) = except_by {
                    self.push(" AND created_by_id <> ").bind(creator.0);
                }
            }
            Walk::ByCreator { creator, status } => {
                self.push(" AND created_by_id = ").bind(creator.0);
                if let Some(status) = status {
                    // The plus keeps this filter from luring SQLite's planner away from the creator's index.
                    self.push(match self.dialect {
                        Dialect::Sqlite => " AND +status = ",
                        Dialect::Postgres => " AND status = ",
                    });
                    self.bind(status.as_str().to_owned());
                }
            }
        }
        if let Some(from) = query.start_date_from {
            self.push(" AND start_date >= ").bind(from);
        }
        if let Some(to) = query.start_date_to {
            self.push(" AND start_date <= ").bind(to);
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
                self.push(" AND instr(search_text, ").bind(term).push(") > 0");
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
                self.push(" AND search_text LIKE ").bind(pattern);
            }
        }
    }

    fn push_after(&mut self, query: &ListQuery, cursor: &Cursor) {
        let (_, comparison) = direction(query.sort_order);
        self.push(&format!(" AND ({}, id) {comparison} (", column(query.sort_by)));
        self.bind(match &cursor.value {
            SortValue::Time(time) => Value::from(*time),
            SortValue::Text(text) => text.clone().into(),
        });
        self.push(", ").bind(cursor.id.0).push(")");
    }
}

fn folded(query: &ListQuery) -> Option<String> {
    query.search.as_deref().map(text::folded)
}

/// A page out of the rows of [`page`], of which the last only shows that more follow.
pub(super) fn listing(mut events: Vec<Event>, total: i64, query: &ListQuery) -> Listing {
    let limit = usize::try_from(query.limit).unwrap_or(0);
    let has_next = events.len() > limit;
    events.truncate(limit);
    Listing { events, has_next, total }
}
