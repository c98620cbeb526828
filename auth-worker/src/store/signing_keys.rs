//! The keys that sign access tokens, as commands of the operator make and revoke them.

use std::time::Duration;

use contract::Timestamp;
use database::{Query, StoreError, StoredTime, query};
use sqlx::FromRow;
use tokio::time::Instant;

use super::AuthStore;
use crate::keyring::SigningKeyRecord;

/// How long the database may take over what an operator's command changes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

const SELECT_SIGNING_KEYS: &str =
    "SELECT kid, sealed, current_from, revoked_at FROM signing_keys ORDER BY current_from, kid";

const INSERT_SIGNING_KEY: &str =
    "INSERT INTO signing_keys (kid, sealed, created_at, current_from) VALUES ($1, $2, $3, $4)";

const REVOKE_SIGNING_KEY: &str = "INSERT INTO signing_keys (kid, created_at, current_from, revoked_at) \
     VALUES ($1, $2, $3, $2) ON CONFLICT (kid) DO UPDATE SET revoked_at = excluded.revoked_at";

const DELETE_SIGNING_KEY: &str = "DELETE FROM signing_keys WHERE kid = $1 AND revoked_at IS NULL";

#[derive(FromRow)]
struct SigningKeyRow {
    kid: String,
    sealed: Option<Vec<u8>>,
    current_from: StoredTime,
    revoked_at: Option<StoredTime>,
}

impl From<SigningKeyRow> for SigningKeyRecord {
    fn from(row: SigningKeyRow) -> Self {
        Self {
            kid: row.kid,
            sealed: row.sealed,
            current_from: row.current_from.0,
            revoked_at: row.revoked_at.map(|at| at.0),
        }
    }
}

impl AuthStore {
    /// The signing keys that were made by command, and the configured one if it is revoked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, StoreError> {
        let rows =
            query(SELECT_SIGNING_KEYS).fetch_all::<SigningKeyRow>(&mut self.database.reader().await?).await?;
        Ok(rows.into_iter().map(SigningKeyRecord::from).collect())
    }

    /// Adds a signing key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_signing_key(&self, key: &SigningKeyRecord, now: Timestamp) -> Result<(), StoreError> {
        let insert = query(INSERT_SIGNING_KEY).bind(&key.kid).bind(key.sealed.as_deref());
        self.command(insert.bind(now).bind(key.current_from)).await
    }

    /// Revokes a signing key; the configured one gets a row by that, with the time from which it has signed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_signing_key(
        &self,
        kid: &str,
        current_from: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.command(query(REVOKE_SIGNING_KEY).bind(kid).bind(now).bind(current_from)).await
    }

    /// Removes a signing key, unless it is revoked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_signing_key(&self, kid: &str) -> Result<(), StoreError> {
        self.command(query(DELETE_SIGNING_KEY).bind(kid)).await
    }

    async fn command(&self, query: Query<'_>) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(Instant::now() + COMMAND_TIMEOUT).await?;
        query.execute(&mut transaction).await?;
        transaction.commit().await
    }
}
