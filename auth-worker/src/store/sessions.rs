//! Sessions and what of them is revoked.

use contract::Timestamp;
use contract::auth::{OrganizationId, SessionId, SessionPosition, User, UserId};
use database::{Sql, StoreError, Transaction, query};
use identity::revocations::{REVOCATION_SECONDS, Revocation};
use sqlx::FromRow;
use tokio::time::Instant;
use uuid::Uuid;

use super::rows::UserRow;
use super::saved::commit;
use super::{AuthStore, Finish};
use database::StoredTime;

/// How long a session that is over is kept, in seconds: while its access tokens could be used.
const KEPT_SECONDS: i64 = 2 * REVOCATION_SECONDS;
/// How long after its last refresh a session may still have an access token, in milliseconds, the grace in which
/// that is given again included.
const TOKENS_MILLIS: i64 = (REVOCATION_SECONDS + 30) * 1000;

const INSERT_SESSION: &str = "INSERT INTO sessions (id, user_id, counter, created_at, rotated_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

const DELETE_EXPIRED_SESSIONS: Sql = Sql {
    sqlite: "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 LIMIT 10)",
    postgres: "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 \
         ORDER BY expires_at LIMIT 10 FOR UPDATE SKIP LOCKED)",
};

const SELECT_SESSION: &str = "SELECT u.id, u.organization_id, u.email, u.first_name, u.last_name, u.role, \
     u.created_at, u.updated_at, u.token_version, s.id AS session_id, s.user_id, s.counter, \
     s.created_at AS begun_at, s.rotated_at, s.expires_at, s.ended_at \
     FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1";

const LIST_SESSIONS: &str = "SELECT id AS session_id, user_id, counter, created_at AS begun_at, rotated_at, \
     expires_at, ended_at FROM sessions \
     WHERE user_id = $1 AND ended_at IS NULL AND rotated_at > $2 AND expires_at > $3 AND (rotated_at, id) < ($4, $5) \
     ORDER BY rotated_at DESC, id DESC LIMIT $6";

/// Locked until the session is there: a change of the user meanwhile finds the session, and ends it.
const SELECT_OWNER: Sql = Sql {
    sqlite: "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
         updated_at, token_version FROM users \
         WHERE id = $1 AND password_hash = $2 AND disabled_at IS NULL",
    postgres: "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
         updated_at, token_version FROM users \
         WHERE id = $1 AND password_hash = $2 AND disabled_at IS NULL FOR SHARE",
};

const ROTATE_SESSION: &str = "UPDATE sessions SET counter = counter + 1, rotated_at = $1 \
     WHERE id = $2 AND counter = $3 AND ended_at IS NULL";

const END_SESSION: &str = "UPDATE sessions SET ended_at = $1, expires_at = $1 \
     WHERE id = $2 AND user_id = $3 AND ended_at IS NULL";

const END_SESSIONS: &str = "UPDATE sessions SET ended_at = $1, expires_at = $1 \
     WHERE user_id = $2 AND ended_at IS NULL";

pub(super) const END_OTHER_SESSIONS: &str = "UPDATE sessions SET ended_at = $1, expires_at = $1 \
     WHERE user_id = $2 AND ended_at IS NULL AND id <> $3";

const REVOKED_SESSIONS: Sql = Sql {
    sqlite: "SELECT id FROM sessions WHERE ended_at >= $1 AND rotated_at > ended_at - $2",
    postgres: "SELECT id FROM sessions \
         WHERE ended_at >= $1 AND rotated_at > ended_at - $2::bigint * interval '1 millisecond'",
};

const REVOKED_VERSIONS: &str = "SELECT id, token_version FROM users WHERE tokens_revoked_at >= $1";

/// A signed-in session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// Whether it was ended before its time.
    pub ended: bool,
    /// The number of the newest refresh token.
    pub counter: u32,
    /// When the newest refresh token was issued.
    pub rotated_at: Timestamp,
    /// When the session ends, however active it is.
    pub expires_at: Timestamp,
}

/// Who a session belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionUser {
    /// The user.
    pub user: User,
    /// The version that the user's new tokens carry.
    pub token_version: i64,
}

/// Which sessions are listed.
#[derive(Debug, Clone, Copy)]
pub struct OpenSessions {
    /// Whose.
    pub user: UserId,
    /// Only those that were used after this.
    pub used_after: Timestamp,
    /// Only those that end after this.
    pub now: Timestamp,
    /// Only those that stand behind this one.
    pub after: Option<SessionPosition>,
    /// How many at most.
    pub limit: i64,
}

impl OpenSessions {
    /// Where the list begins: behind everything that could stand in front of it.
    fn begin(&self) -> SessionPosition {
        self.after.unwrap_or(SessionPosition(Timestamp::LATEST, SessionId(Uuid::max())))
    }
}

#[derive(FromRow)]
struct OwnerRow {
    #[sqlx(flatten)]
    user: UserRow,
    token_version: i64,
}

impl TryFrom<OwnerRow> for SessionUser {
    type Error = StoreError;

    fn try_from(row: OwnerRow) -> Result<Self, StoreError> {
        Ok(Self { user: row.user.try_into()?, token_version: row.token_version })
    }
}

#[derive(FromRow)]
struct SessionRow {
    session_id: Uuid,
    user_id: Uuid,
    counter: i64,
    begun_at: StoredTime,
    rotated_at: StoredTime,
    expires_at: StoredTime,
    ended_at: Option<StoredTime>,
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: SessionId(row.session_id),
            user_id: UserId(row.user_id),
            counter: u32::try_from(row.counter).map_err(|_| StoreError::UnknownValue("counter"))?,
            created_at: row.begun_at.0,
            rotated_at: row.rotated_at.0,
            expires_at: row.expires_at.0,
            ended: row.ended_at.is_some(),
        })
    }
}

#[derive(FromRow)]
struct OwnedSessionRow {
    #[sqlx(flatten)]
    owner: OwnerRow,
    #[sqlx(flatten)]
    session: SessionRow,
}

impl AuthStore {
    /// Opens a session for a user of `organization` who has shown to know the password behind `password_hash`.
    /// `None` when that is not the user's any more, or the user is disabled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_session(
        &self,
        organization: OrganizationId,
        session: Session,
        password_hash: &str,
        deadline: Instant,
    ) -> Result<Option<SessionUser>, StoreError> {
        let mut transaction = self.database.begin_for(organization.0, deadline).await?;
        let owner = query(SELECT_OWNER)
            .bind(session.user_id.0)
            .bind(password_hash)
            .fetch_optional::<OwnerRow>(&mut transaction)
            .await?;
        let Some(owner) = owner else { return Ok(None) };
        insert_session(&mut transaction, &session).await?;
        transaction.commit().await?;
        Ok(Some(owner.try_into()?))
    }

    /// A session, with its user. One that was ended may still be there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn session(&self, id: SessionId) -> Result<Option<(Session, SessionUser)>, StoreError> {
        let row = query(SELECT_SESSION)
            .bind(id.0)
            .fetch_optional::<OwnedSessionRow>(&mut self.database.reader().await?)
            .await?;
        row.map(|row| Ok((row.session.try_into()?, row.owner.try_into()?))).transpose()
    }

    /// Sessions of a user that are not over, the one used last first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sessions(&self, wanted: OpenSessions) -> Result<Vec<Session>, StoreError> {
        let SessionPosition(rotated_at, id) = wanted.begin();
        let rows = query(LIST_SESSIONS)
            .bind(wanted.user.0)
            .bind(wanted.used_after)
            .bind(wanted.now)
            .bind(rotated_at)
            .bind(id.0)
            .bind(wanted.limit)
            .fetch_all::<SessionRow>(&mut self.database.reader().await?)
            .await?;
        rows.into_iter().map(SessionRow::try_into).collect()
    }

    /// Counts a session's token up from `counter`. `false` when another refresh was faster, or it was ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rotate_session(
        &self,
        id: SessionId,
        counter: u32,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        let rotated =
            query(ROTATE_SESSION).bind(now).bind(id.0).bind(counter).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(rotated == 1)
    }

    /// Ends a session of this user's. `false` when there is none that could be ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_session(
        &self,
        user: UserId,
        id: SessionId,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin(finish.deadline).await?;
        let ended = query(END_SESSION).bind(now).bind(id.0).bind(user.0).execute(&mut transaction).await?;
        if ended == 0 {
            return Ok(false);
        }
        commit(transaction, finish, None).await?;
        Ok(true)
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_sessions(
        &self,
        user: UserId,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(finish.deadline).await?;
        end_sessions(&mut transaction, user, now).await?;
        commit(transaction, finish, None).await
    }

    /// What was revoked at `since` or later.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        let mut reader = self.database.reader().await?;
        let sessions =
            query(REVOKED_SESSIONS).bind(since).bind(TOKENS_MILLIS).fetch_all::<(Uuid,)>(&mut reader).await?;
        let versions = query(REVOKED_VERSIONS).bind(since).fetch_all::<(Uuid, i64)>(&mut reader).await?;
        let versions = versions.into_iter().map(|(user, version)| Revocation::User(UserId(user), version));
        let sessions = sessions.into_iter().map(|(session,)| Revocation::Session(SessionId(session)));
        Ok(versions.chain(sessions).collect())
    }
}

/// Also removes a few sessions that are over, so that the table stays as large as its use.
pub(super) async fn insert_session(
    transaction: &mut Transaction,
    session: &Session,
) -> Result<(), StoreError> {
    query(DELETE_EXPIRED_SESSIONS)
        .bind(session.rotated_at.plus_seconds(-KEPT_SECONDS))
        .execute(&mut *transaction)
        .await?;
    query(INSERT_SESSION)
        .bind(session.id.0)
        .bind(session.user_id.0)
        .bind(session.counter)
        .bind(session.created_at)
        .bind(session.rotated_at)
        .bind(session.expires_at)
        .execute(transaction)
        .await?;
    Ok(())
}

pub(super) async fn end_sessions(
    transaction: &mut Transaction,
    user: UserId,
    now: Timestamp,
) -> Result<(), StoreError> {
    query(END_SESSIONS).bind(now).bind(user.0).execute(transaction).await?;
    Ok(())
}
