//! Answers to writes that a client has named: saved in the transaction of their effect, so that a retry of the
//! write finds them. What they say is sealed, and secrets are left out.

use std::fmt;
use std::sync::Arc;

use contract::auth::Role;
use contract::{RequestIds, Timestamp};
use database::{Answered, AnsweredRow, Sql, StoreError, Transaction, query};
use sqlx::FromRow;
use tokio::time::Instant;

use super::AuthStore;
use crate::keyring::KeyWrapper;

const INSERT: &str = "INSERT INTO saved_answers (scope, key_hash, fingerprint, role, correlation_id, \
     trace_id, span_id, status, sealed, saved_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
     ON CONFLICT DO NOTHING";

const SELECT: &str = "SELECT fingerprint, role, correlation_id, trace_id, span_id, status, sealed \
     FROM saved_answers WHERE scope = $1 AND key_hash = $2";

/// A few at a time, so that the table stays as large as its use.
const DELETE_OLD: Sql = Sql {
    sqlite: "DELETE FROM saved_answers WHERE (scope, key_hash) IN \
         (SELECT scope, key_hash FROM saved_answers WHERE saved_at < $1 ORDER BY saved_at LIMIT 10)",
    postgres: "DELETE FROM saved_answers WHERE (scope, key_hash) IN \
         (SELECT scope, key_hash FROM saved_answers WHERE saved_at < $1 ORDER BY saved_at LIMIT 10 FOR UPDATE SKIP LOCKED)",
};

/// How long an answer is saved, in seconds: longer than the 24 hours that are promised.
const KEPT_SECONDS: i64 = 72 * 60 * 60;

/// How a write ends: by when, and with which answer saved.
#[derive(Debug, Clone)]
pub struct Finish {
    /// It is not committed later.
    pub deadline: Instant,
    /// What is saved of its answer, if it has a key.
    pub saving: Option<Saving>,
}

impl Finish {
    /// Without a key.
    pub fn by(deadline: Instant) -> Self {
        Self { deadline, saving: None }
    }
}

/// An answer that is about to be saved, and where.
#[derive(Clone)]
pub struct Saving {
    /// Whose key it is: a keyed hash.
    pub scope: [u8; 32],
    /// SHA-256 of the key.
    pub key_hash: [u8; 32],
    /// A keyed hash of operation and body, which may hold a password.
    pub fingerprint: [u8; 32],
    /// What the caller may do now.
    pub role: Role,
    /// The request.
    pub ids: RequestIds,
    /// HTTP status.
    pub status: u16,
    /// When.
    pub at: Timestamp,
    pub(crate) seal: Arc<KeyWrapper>,
}

impl fmt::Debug for Saving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saving").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Saving {
    /// The body as it is stored.
    fn sealed(&self, body: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
        let seal = |body| self.seal.close(&self.key_hash, body).ok_or(StoreError::UnknownValue("seal"));
        body.map(seal).transpose()
    }
}

/// An answer that was saved.
#[derive(Debug, Clone)]
pub struct SavedAnswer {
    /// Of the write it answered.
    pub fingerprint: [u8; 32],
    /// What the caller could do then.
    pub role: Role,
    /// The request it answered.
    pub first: RequestIds,
    /// HTTP status.
    pub status: u16,
    /// The body, sealed; `None` when there was none, or it held a secret.
    pub sealed: Option<Vec<u8>>,
}

#[derive(FromRow)]
struct SavedRow {
    #[sqlx(flatten)]
    answered: AnsweredRow,
    sealed: Option<Vec<u8>>,
}

impl TryFrom<SavedRow> for SavedAnswer {
    type Error = StoreError;

    fn try_from(row: SavedRow) -> Result<Self, StoreError> {
        let Answered { fingerprint, role, first, status } = row.answered.try_into()?;
        Ok(Self { fingerprint, role, first, status, sealed: row.sealed })
    }
}

impl AuthStore {
    /// The answer that was saved where this one is to be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn saved_answer(&self, saving: &Saving) -> Result<Option<SavedAnswer>, StoreError> {
        let row = query(SELECT)
            .bind(saving.scope.as_slice())
            .bind(saving.key_hash.as_slice())
            .fetch_optional::<SavedRow>(&mut self.database.reader().await?)
            .await?;
        row.map(SavedRow::try_into).transpose()
    }
}

/// Saves the answer, if the write has a key, and commits.
pub(super) async fn commit(
    mut transaction: Transaction,
    finish: &Finish,
    body: Option<&[u8]>,
) -> Result<(), StoreError> {
    if let Some(saving) = &finish.saving {
        query(DELETE_OLD).bind(saving.at.plus_seconds(-KEPT_SECONDS)).execute(&mut transaction).await?;
        let inserted = query(INSERT)
            .bind(saving.scope.as_slice())
            .bind(saving.key_hash.as_slice())
            .bind(saving.fingerprint.as_slice())
            .bind(saving.role.as_str())
            .bind(saving.ids.correlation_id.as_str())
            .bind(saving.ids.trace.trace_id.to_string())
            .bind(saving.ids.trace.span_id.to_string())
            .bind(saving.status)
            .bind(saving.sealed(body)?)
            .bind(saving.at)
            .execute(&mut transaction)
            .await?;
        if inserted == 0 {
            return Err(StoreError::AlreadyAnswered);
        }
    }
    transaction.commit().await
}
