//! The auth store on SQLite.

use std::path::Path;

use async_trait::async_trait;
use database::{OpenError, Sqlite, StoreError, StoredTime};
use shared::contract::Timestamp;
use shared::contract::auth::{Account, Email, Organization, Role, SessionId, User, UserId};
use sqlx::SqliteConnection;
use tokio::time::Instant;

use super::rows::{AccountRow, CredentialsRow, GrantRow, SessionRow};
use super::{AuthStore, CreateAccountError, Membership, NewAccount, NewInvitation, SeedUser, Session};

/// Users and sessions in an SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteAuthStore {
    database: Sqlite,
}

impl SqliteAuthStore {
    /// Opens or creates the file and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { database: Sqlite::open(path, sqlx::migrate!("migrations/sqlite")).await? })
    }
}

const INSERT_ORGANIZATION: &str =
    "INSERT INTO organizations (id, name, slug, created_at) VALUES (?, ?, ?, ?)";

const INSERT_USER: &str = "INSERT INTO users (id, organization_id, email, password_hash, first_name, last_name, \
     role, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Of several workers that start at once, the first writes the demo data.
const SEED_ORGANIZATION: &str =
    "INSERT INTO organizations (id, name, slug, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING";

const SEED_USER: &str = "INSERT INTO users (id, organization_id, email, password_hash, first_name, last_name, \
     role, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
     ON CONFLICT DO NOTHING";

const EMAIL_EXISTS: &str = "SELECT 1 FROM users WHERE email = ?";

const INSERT_SESSION: &str = "INSERT INTO sessions (id, user_id, counter, created_at, rotated_at, expires_at) \
     VALUES (?, ?, ?, ?, ?, ?)";

const DELETE_EXPIRED_SESSIONS: &str =
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < ? LIMIT 10)";

const SELECT_CREDENTIALS: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, password_hash FROM users WHERE email = ?";

const SELECT_ACCOUNT: &str = "SELECT u.id, u.organization_id, u.email, u.first_name, u.last_name, u.role, \
     u.created_at, u.updated_at, o.name, o.slug \
     FROM users u JOIN organizations o ON o.id = u.organization_id WHERE u.id = ?";

const SELECT_SESSION: &str = "SELECT u.id, u.organization_id, u.email, u.first_name, u.last_name, u.role, \
     u.created_at, u.updated_at, s.id AS session_id, s.counter, s.rotated_at, s.expires_at \
     FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = ?";

const ROTATE_SESSION: &str =
    "UPDATE sessions SET counter = counter + 1, rotated_at = ? WHERE id = ? AND counter = ?";

const USE_INVITATION: &str = "UPDATE invitations SET used_at = ?1 \
     WHERE token_hash = ?2 AND email = ?3 AND used_at IS NULL AND expires_at > ?1 \
     RETURNING organization_id, role";

const INSERT_INVITATION: &str = "INSERT INTO invitations (token_hash, organization_id, email, role, created_by_id, \
     expires_at) VALUES (?, ?, ?, ?, ?, ?)";

#[async_trait]
impl AuthStore for SqliteAuthStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await
    }

    async fn create_account(
        &self,
        account: NewAccount,
        session: Session,
        deadline: Instant,
    ) -> Result<User, CreateAccountError> {
        let mut transaction = self.database.begin(deadline).await?;
        let (organization_id, role) = match &account.membership {
            Membership::Founder(organization) => {
                insert_organization(&mut transaction, INSERT_ORGANIZATION, organization, account.now)
                    .await
                    .map_err(|error| taken(error, CreateAccountError::OrganizationTaken))?;
                (organization.id, Role::Admin)
            }
            Membership::Invited(token_hash) => {
                let grant = sqlx::query_as::<_, GrantRow>(USE_INVITATION)
                    .bind(StoredTime(account.now))
                    .bind(token_hash.as_slice())
                    .bind(account.email.as_str())
                    .fetch_optional(&mut *transaction)
                    .await
                    .map_err(StoreError::from)?;
                grant.ok_or(CreateAccountError::InvalidInvitation)?.try_into()?
            }
        };
        let user = User {
            id: account.id,
            email: account.email,
            first_name: account.first_name,
            last_name: account.last_name,
            role,
            organization_id,
            created_at: account.now,
            updated_at: account.now,
        };
        insert_user(&mut transaction, INSERT_USER, &user, &account.password_hash)
            .await
            .map_err(|error| taken(error, CreateAccountError::EmailTaken))?;
        insert_session(&mut transaction, &session).await?;
        transaction.commit().await?;
        Ok(user)
    }

    async fn credentials(&self, email: &Email) -> Result<Option<(User, String)>, StoreError> {
        let row = sqlx::query_as::<_, CredentialsRow>(SELECT_CREDENTIALS)
            .bind(email.as_str())
            .fetch_optional(&mut *self.database.reader().await?)
            .await?;
        row.map(CredentialsRow::try_into).transpose()
    }

    async fn account(&self, id: UserId) -> Result<Option<Account>, StoreError> {
        let row = sqlx::query_as::<_, AccountRow>(SELECT_ACCOUNT)
            .bind(id.0)
            .fetch_optional(&mut *self.database.reader().await?)
            .await?;
        row.map(AccountRow::try_into).transpose()
    }

    async fn replace_password_hash(
        &self,
        user: UserId,
        old: &str,
        new: &str,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        sqlx::query("UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?")
            .bind(new)
            .bind(user.0)
            .bind(old)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    async fn open_session(&self, session: Session, deadline: Instant) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        insert_session(&mut transaction, &session).await?;
        transaction.commit().await
    }

    async fn session(&self, id: SessionId) -> Result<Option<(Session, User)>, StoreError> {
        let row = sqlx::query_as::<_, SessionRow>(SELECT_SESSION)
            .bind(id.0)
            .fetch_optional(&mut *self.database.reader().await?)
            .await?;
        row.map(SessionRow::try_into).transpose()
    }

    async fn rotate_session(
        &self,
        id: SessionId,
        counter: u32,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        let rotated = sqlx::query(ROTATE_SESSION)
            .bind(StoredTime(now))
            .bind(id.0)
            .bind(counter)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rotated.rows_affected() == 1)
    }

    async fn close_session(&self, id: SessionId, deadline: Instant) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        sqlx::query("DELETE FROM sessions WHERE id = ?").bind(id.0).execute(&mut *transaction).await?;
        transaction.commit().await
    }

    async fn email_exists(&self, email: &Email) -> Result<bool, StoreError> {
        let row = sqlx::query(EMAIL_EXISTS)
            .bind(email.as_str())
            .fetch_optional(&mut *self.database.reader().await?)
            .await?;
        Ok(row.is_some())
    }

    async fn create_invitation(
        &self,
        invitation: NewInvitation,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        sqlx::query(INSERT_INVITATION)
            .bind(invitation.token_hash.as_slice())
            .bind(invitation.organization_id.0)
            .bind(invitation.email.as_str())
            .bind(invitation.role.as_str())
            .bind(invitation.created_by.0)
            .bind(StoredTime(invitation.expires_at))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    }

    async fn seed(
        &self,
        organizations: &[Organization],
        users: &[SeedUser],
        now: Timestamp,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(deadline).await?;
        for organization in organizations {
            insert_organization(&mut transaction, SEED_ORGANIZATION, organization, now).await?;
        }
        for seeded in users {
            let home = sqlx::query("SELECT 1 FROM organizations WHERE id = ?")
                .bind(seeded.user.organization_id.0)
                .fetch_optional(&mut *transaction)
                .await?;
            // Somebody may have founded an organisation of the same name: then the demo has no home.
            if home.is_some() {
                insert_user(&mut transaction, SEED_USER, &seeded.user, &seeded.password_hash).await?;
            }
        }
        transaction.commit().await
    }
}

async fn insert_organization(
    connection: &mut SqliteConnection,
    statement: &'static str,
    organization: &Organization,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement)
        .bind(organization.id.0)
        .bind(&organization.name)
        .bind(&organization.slug)
        .bind(StoredTime(now))
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_user(
    connection: &mut SqliteConnection,
    statement: &'static str,
    user: &User,
    password_hash: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement)
        .bind(user.id.0)
        .bind(user.organization_id.0)
        .bind(user.email.as_str())
        .bind(password_hash)
        .bind(&user.first_name)
        .bind(&user.last_name)
        .bind(user.role.as_str())
        .bind(StoredTime(user.created_at))
        .bind(StoredTime(user.updated_at))
        .execute(connection)
        .await?;
    Ok(())
}

/// Also removes a few sessions that are over, so that the table stays as large as its use.
async fn insert_session(connection: &mut SqliteConnection, session: &Session) -> Result<(), StoreError> {
    sqlx::query(DELETE_EXPIRED_SESSIONS)
        .bind(StoredTime(session.rotated_at))
        .execute(&mut *connection)
        .await?;
    sqlx::query(INSERT_SESSION)
        .bind(session.id.0)
        .bind(session.user_id.0)
        .bind(session.counter)
        .bind(StoredTime(session.rotated_at))
        .bind(StoredTime(session.rotated_at))
        .bind(StoredTime(session.expires_at))
        .execute(connection)
        .await?;
    Ok(())
}

/// A unique index said no: the name is taken.
fn taken(error: sqlx::Error, refusal: CreateAccountError) -> CreateAccountError {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => refusal,
        _ => CreateAccountError::Store(error.into()),
    }
}
