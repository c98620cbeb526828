//! The auth store on Postgres.

use async_trait::async_trait;
use contract::Timestamp;
use contract::auth::{
    Account, Email, Member, Organization, OrganizationId, Role, SessionId, SessionPosition, User, UserId,
};
use contract::text::lookalike;
use database::{
    BoundedTransaction, InstrumentedConnection, OpenError, PingError, Postgres, StoreError, StoredTime,
    act_for,
};
use identity::revocations::Revocation;
use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;
use uuid::Uuid;

use super::rows::{
    AccountRow, CredentialsRow, GrantRow, MemberRow, OwnedSessionRow, OwnerRow, RevocationRow, SessionRow,
    SigningKeyRow, changed_member,
};
use super::saved::{self, Finish, SavedAnswer, SavedRow, Saving};
use super::texts::{OLD_NAMES, RENEW_INVITATION, RENEW_NAME, RENEW_USER};
use super::{
    Address, AuthStore, COMMAND_TIMEOUT, ChangeMemberError, CreateAccountError, KEPT_SECONDS, MemberChange,
    Membership, NewAccount, NewInvitation, OldText, OpenSessions, PasswordChange, SeedUser, Session,
    SessionUser, TOKENS_SECONDS,
};
use crate::keyring::SigningKeyRecord;

/// Users and sessions in a Postgres database.
#[derive(Debug, Clone)]
pub struct PostgresAuthStore {
    database: Postgres,
}

impl PostgresAuthStore {
    /// Connects, with at most `connections` at once, and brings the schema up to date.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        options: PgConnectOptions,
        connections: u32,
        statement_cache: usize,
    ) -> Result<Self, OpenError> {
        let migrations = sqlx::migrate!("migrations/postgres");
        Ok(Self { database: Postgres::open(options, connections, statement_cache, migrations).await? })
    }
}

const OLD_USERS: &str = "SELECT id, organization_id, email FROM users \
     WHERE email_rules < 2 AND octet_length(email) <> char_length(email)";

const OLD_INVITATIONS: &str = "SELECT token_hash, organization_id, email FROM invitations \
     WHERE email_rules < 2 AND octet_length(email) <> char_length(email)";

const INSERT_ORGANIZATION: &str =
    "INSERT INTO organizations (id, name, slug, created_at, name_key) VALUES ($1, $2, $3, $4, $5)";

/// A few at a time, so that the table stays as large as its use.
const DELETE_OLD_ANSWERS: &str = "DELETE FROM saved_answers WHERE (scope, key_hash) IN \
     (SELECT scope, key_hash FROM saved_answers WHERE saved_at < $1 ORDER BY saved_at LIMIT 10 FOR UPDATE SKIP LOCKED)";

const INSERT_USER: &str = "INSERT INTO users (id, organization_id, email, password_hash, first_name, last_name, \
     role, created_at, updated_at, email_rules) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 2)";

/// Of several workers that start at once, the first writes the demo data.
const SEED_ORGANIZATION: &str = "INSERT INTO organizations (id, name, slug, created_at, name_key) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";

const SEED_USER: &str = "INSERT INTO users (id, organization_id, email, password_hash, first_name, last_name, \
     role, created_at, updated_at, email_rules) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 2) \
     ON CONFLICT DO NOTHING";

const EMAIL_EXISTS: &str = "SELECT 1 FROM users WHERE email = $1";

const INSERT_SESSION: &str = "INSERT INTO sessions (id, user_id, counter, created_at, rotated_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

const DELETE_EXPIRED_SESSIONS: &str = "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 \
     ORDER BY expires_at LIMIT 10 FOR UPDATE SKIP LOCKED)";

const SELECT_CREDENTIALS: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, password_hash FROM users WHERE email = $1";

const SELECT_ACCOUNT: &str = "SELECT u.id, u.organization_id, u.email, u.first_name, u.last_name, u.role, \
     u.created_at, u.updated_at, o.name, o.slug \
     FROM users u JOIN organizations o ON o.id = u.organization_id WHERE u.id = $1";

const SELECT_SESSION: &str = "SELECT u.id, u.organization_id, u.email, u.first_name, u.last_name, u.role, \
     u.created_at, u.updated_at, u.token_version, s.id AS session_id, s.user_id, s.counter, \
     s.created_at AS begun_at, s.rotated_at, s.expires_at, s.ended_at \
     FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1";

const LIST_SESSIONS: &str = "SELECT id AS session_id, user_id, counter, created_at AS begun_at, rotated_at, \
     expires_at, ended_at FROM sessions \
     WHERE user_id = $1 AND ended_at IS NULL AND rotated_at > $2 AND expires_at > $3 AND (rotated_at, id) < ($4, $5) \
     ORDER BY rotated_at DESC, id DESC LIMIT $6";

/// Held until the session is there: whoever changes the user meanwhile finds the session, and ends it.
const SELECT_OWNER: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, token_version FROM users \
     WHERE id = $1 AND password_hash = $2 AND disabled_at IS NULL FOR SHARE";

const END_SESSION: &str = "UPDATE sessions SET ended_at = $1, expires_at = $2 \
     WHERE id = $3 AND user_id = $4 AND ended_at IS NULL";

const END_SESSIONS: &str = "UPDATE sessions SET ended_at = $1, expires_at = $2 \
     WHERE user_id = $3 AND ended_at IS NULL";

const END_OTHER_SESSIONS: &str = "UPDATE sessions SET ended_at = $1, expires_at = $2 \
     WHERE user_id = $3 AND ended_at IS NULL AND id <> $4";

const REVOKED_SESSIONS: &str = "SELECT id, NULL::bigint AS token_version FROM sessions \
     WHERE ended_at >= $1 AND rotated_at > ended_at - make_interval(secs => $2)";

const REVOKED_VERSIONS: &str = "SELECT id, token_version FROM users WHERE tokens_revoked_at >= $1";

const LIST_MEMBERS: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, disabled_at FROM users WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3";

/// Both rows at once, and always in the same order: two who change each other do not wait for each other.
const SELECT_MEMBERS: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, disabled_at FROM users WHERE organization_id = $1 AND id IN ($2, $3) ORDER BY id FOR UPDATE";

const UPDATE_MEMBER: &str = "UPDATE users SET role = $1, disabled_at = $2, updated_at = $3, \
     token_version = token_version + 1, tokens_revoked_at = $4 \
     WHERE id = $5 AND organization_id = $6";

const SELECT_SIGNING_KEYS: &str =
    "SELECT kid, sealed, current_from, revoked_at FROM signing_keys ORDER BY current_from, kid";

const INSERT_SIGNING_KEY: &str =
    "INSERT INTO signing_keys (kid, sealed, created_at, current_from) VALUES ($1, $2, $3, $4)";

const REVOKE_SIGNING_KEY: &str = "INSERT INTO signing_keys (kid, created_at, current_from, revoked_at) \
     VALUES ($1, $2, $3, $2) ON CONFLICT (kid) DO UPDATE SET revoked_at = excluded.revoked_at";

const CHANGE_PASSWORD: &str = "UPDATE users SET password_hash = $1, updated_at = $2 \
     WHERE id = $3 AND password_hash = $4";

const ROTATE_SESSION: &str = "UPDATE sessions SET counter = counter + 1, rotated_at = $1 WHERE id = $2 AND counter = $3 AND ended_at IS NULL";

const SELECT_INVITING: &str = "SELECT organization_id FROM invitations WHERE token_hash = $1";

const USE_INVITATION: &str = "UPDATE invitations SET used_at = $1 \
     WHERE token_hash = $2 AND email = $3 AND used_at IS NULL AND expires_at > $1 \
     AND EXISTS (SELECT 1 FROM users u WHERE u.id = created_by_id AND u.role = 'ADMIN' AND u.disabled_at IS NULL) \
     RETURNING organization_id, role";

const INSERT_INVITATION: &str = "INSERT INTO invitations (token_hash, organization_id, email, role, created_by_id, \
     expires_at, email_rules) VALUES ($1, $2, $3, $4, $5, $6, 2)";

#[async_trait]
impl AuthStore for PostgresAuthStore {
    async fn ping(&self) -> Result<(), PingError> {
        self.database.ping().await
    }

    async fn create_account(
        &self,
        account: NewAccount,
        session: Session,
        finish: &Finish,
    ) -> Result<User, CreateAccountError> {
        let mut transaction = self.database.begin(finish.deadline).await?;
        let (organization_id, role) = match &account.membership {
            Membership::Founder(organization) => {
                insert_organization(transaction.statements(), INSERT_ORGANIZATION, organization, account.now)
                    .await
                    .map_err(|error| taken(error, CreateAccountError::OrganizationTaken))?;
                act_for(transaction.statements(), organization.id.0).await.map_err(StoreError::from)?;
                (organization.id, Role::Admin)
            }
            Membership::Invited(token_hash) => {
                let inviting = sqlx::query_scalar(SELECT_INVITING)
                    .bind(token_hash.as_slice())
                    .fetch_optional(transaction.statements())
                    .await
                    .map_err(StoreError::from)?;
                let inviting = inviting.ok_or(CreateAccountError::InvalidInvitation)?;
                act_for(transaction.statements(), inviting).await.map_err(StoreError::from)?;
                let grant = sqlx::query_as::<_, GrantRow>(USE_INVITATION)
                    .bind(StoredTime(account.now))
                    .bind(token_hash.as_slice())
                    .bind(account.email.as_str())
                    .fetch_optional(transaction.statements())
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
        insert_user(transaction.statements(), INSERT_USER, &user, &account.password_hash)
            .await
            .map_err(|error| taken(error, CreateAccountError::EmailTaken))?;
        insert_session(transaction.statements(), &session).await?;
        commit(transaction, finish, None).await?;
        Ok(user)
    }

    async fn credentials(&self, email: &Email) -> Result<Option<(User, String)>, StoreError> {
        let row = sqlx::query_as::<_, CredentialsRow>(SELECT_CREDENTIALS)
            .bind(email.as_str())
            .fetch_optional(self.database.connection().await?.statements())
            .await?;
        row.map(CredentialsRow::try_into).transpose()
    }

    async fn account(&self, id: UserId) -> Result<Option<Account>, StoreError> {
        let row = sqlx::query_as::<_, AccountRow>(SELECT_ACCOUNT)
            .bind(id.0)
            .fetch_optional(self.database.connection().await?.statements())
            .await?;
        row.map(AccountRow::try_into).transpose()
    }

    async fn replace_password_hash(
        &self,
        user: &User,
        old: &str,
        new: &str,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_for(user.organization_id.0, deadline).await?;
        sqlx::query("UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3")
            .bind(new)
            .bind(user.id.0)
            .bind(old)
            .execute(transaction.statements())
            .await?;
        transaction.commit().await
    }

    async fn password_hash(&self, user: UserId) -> Result<Option<String>, StoreError> {
        let hash = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1")
            .bind(user.0)
            .fetch_optional(self.database.connection().await?.statements())
            .await?;
        Ok(hash)
    }

    async fn change_password(
        &self,
        change: PasswordChange<'_>,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin_for(change.organization.0, finish.deadline).await?;
        let changed = sqlx::query(CHANGE_PASSWORD)
            .bind(change.new)
            .bind(StoredTime(now))
            .bind(change.user.0)
            .bind(change.old)
            .execute(transaction.statements())
            .await?;
        if changed.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query(END_OTHER_SESSIONS)
            .bind(StoredTime(now))
            .bind(StoredTime(now))
            .bind(change.user.0)
            .bind(change.keep.0)
            .execute(transaction.statements())
            .await?;
        commit(transaction, finish, None).await?;
        Ok(true)
    }

    async fn open_session(
        &self,
        organization: OrganizationId,
        session: Session,
        password_hash: &str,
        deadline: Instant,
    ) -> Result<Option<SessionUser>, StoreError> {
        let mut transaction = self.database.begin_for(organization.0, deadline).await?;
        let owner = sqlx::query_as::<_, OwnerRow>(SELECT_OWNER)
            .bind(session.user_id.0)
            .bind(password_hash)
            .fetch_optional(transaction.statements())
            .await?;
        let Some(owner) = owner else { return Ok(None) };
        insert_session(transaction.statements(), &session).await?;
        transaction.commit().await?;
        Ok(Some(owner.try_into()?))
    }

    async fn session(&self, id: SessionId) -> Result<Option<(Session, SessionUser)>, StoreError> {
        let row = sqlx::query_as::<_, OwnedSessionRow>(SELECT_SESSION)
            .bind(id.0)
            .fetch_optional(self.database.connection().await?.statements())
            .await?;
        row.map(OwnedSessionRow::try_into).transpose()
    }

    async fn sessions(&self, wanted: OpenSessions) -> Result<Vec<Session>, StoreError> {
        let SessionPosition(rotated_at, id) = wanted.begin();
        let rows = sqlx::query_as::<_, SessionRow>(LIST_SESSIONS)
            .bind(wanted.user.0)
            .bind(StoredTime(wanted.used_after))
            .bind(StoredTime(wanted.now))
            .bind(StoredTime(rotated_at))
            .bind(id.0)
            .bind(wanted.limit)
            .fetch_all(self.database.connection().await?.statements())
            .await?;
        rows.into_iter().map(SessionRow::try_into).collect()
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
            .bind(i64::from(counter))
            .execute(transaction.statements())
            .await?;
        transaction.commit().await?;
        Ok(rotated.rows_affected() == 1)
    }

    async fn end_session(
        &self,
        user: UserId,
        id: SessionId,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin(finish.deadline).await?;
        let ended = sqlx::query(END_SESSION)
            .bind(StoredTime(now))
            .bind(StoredTime(now))
            .bind(id.0)
            .bind(user.0)
            .execute(transaction.statements())
            .await?;
        if ended.rows_affected() == 0 {
            return Ok(false);
        }
        commit(transaction, finish, None).await?;
        Ok(true)
    }

    async fn end_sessions(&self, user: UserId, now: Timestamp, finish: &Finish) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(finish.deadline).await?;
        end_sessions(transaction.statements(), user, now).await?;
        commit(transaction, finish, None).await
    }

    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        let mut connection = self.database.connection().await?;
        let sessions = sqlx::query_as::<_, RevocationRow>(REVOKED_SESSIONS)
            .bind(StoredTime(since))
            .bind(TOKENS_SECONDS as f64)
            .fetch_all(connection.statements())
            .await?;
        let mut revocations = sqlx::query_as::<_, RevocationRow>(REVOKED_VERSIONS)
            .bind(StoredTime(since))
            .fetch_all(connection.statements())
            .await?;
        revocations.extend(sessions);
        Ok(revocations.into_iter().map(Revocation::from).collect())
    }

    async fn members(
        &self,
        organization: OrganizationId,
        after: Option<UserId>,
        limit: i64,
    ) -> Result<Vec<Member>, StoreError> {
        let rows = sqlx::query_as::<_, MemberRow>(LIST_MEMBERS)
            .bind(organization.0)
            .bind(after.map_or(Uuid::nil(), |after| after.0))
            .bind(limit)
            .fetch_all(self.database.connection().await?.statements())
            .await?;
        rows.into_iter().map(MemberRow::try_into).collect()
    }

    async fn change_member(
        &self,
        change: MemberChange,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<Member, ChangeMemberError> {
        let mut transaction = self.database.begin_for(change.organization.0, finish.deadline).await?;
        let rows = sqlx::query_as::<_, MemberRow>(SELECT_MEMBERS)
            .bind(change.organization.0)
            .bind(change.by.0)
            .bind(change.member.0)
            .fetch_all(transaction.statements())
            .await
            .map_err(StoreError::from)?;
        let (member, changed) = changed_member(rows, &change, now)?;
        // Serialising it into memory has no way to fail.
        let body = serde_json::to_vec(&member).unwrap_or_default();
        if !changed {
            commit(transaction, finish, Some(&body)).await?;
            return Ok(member);
        }
        sqlx::query(UPDATE_MEMBER)
            .bind(member.user.role.as_str())
            .bind(member.disabled_at.map(StoredTime))
            .bind(StoredTime(now))
            .bind(StoredTime(now))
            .bind(change.member.0)
            .bind(change.organization.0)
            .execute(transaction.statements())
            .await
            .map_err(StoreError::from)?;
        if member.disabled_at.is_some() {
            end_sessions(transaction.statements(), change.member, now).await?;
        }
        commit(transaction, finish, Some(&body)).await?;
        Ok(member)
    }

    async fn email_exists(&self, email: &Email) -> Result<bool, StoreError> {
        let row = sqlx::query(EMAIL_EXISTS)
            .bind(email.as_str())
            .fetch_optional(self.database.connection().await?.statements())
            .await?;
        Ok(row.is_some())
    }

    async fn create_invitation(&self, invitation: NewInvitation, finish: &Finish) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_for(invitation.organization_id.0, finish.deadline).await?;
        sqlx::query(INSERT_INVITATION)
            .bind(invitation.token_hash.as_slice())
            .bind(invitation.organization_id.0)
            .bind(invitation.email.as_str())
            .bind(invitation.role.as_str())
            .bind(invitation.created_by.0)
            .bind(StoredTime(invitation.expires_at))
            .execute(transaction.statements())
            .await?;
        commit(transaction, finish, None).await
    }

    async fn saved_answer(&self, saving: &Saving) -> Result<Option<SavedAnswer>, StoreError> {
        let row = sqlx::query_as::<_, SavedRow>(saved::SELECT)
            .bind(saving.scope.as_slice())
            .bind(saving.key_hash.as_slice())
            .fetch_optional(self.database.connection().await?.statements())
            .await?;
        row.map(SavedRow::try_into).transpose()
    }

    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, StoreError> {
        let rows = sqlx::query_as::<_, SigningKeyRow>(SELECT_SIGNING_KEYS)
            .fetch_all(self.database.connection().await?.statements())
            .await?;
        Ok(rows.into_iter().map(SigningKeyRecord::from).collect())
    }

    async fn add_signing_key(&self, key: &SigningKeyRecord, now: Timestamp) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(Instant::now() + COMMAND_TIMEOUT).await?;
        sqlx::query(INSERT_SIGNING_KEY)
            .bind(&key.kid)
            .bind(key.sealed.as_deref())
            .bind(StoredTime(now))
            .bind(StoredTime(key.current_from))
            .execute(transaction.statements())
            .await?;
        transaction.commit().await
    }

    async fn revoke_signing_key(
        &self,
        kid: &str,
        current_from: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(Instant::now() + COMMAND_TIMEOUT).await?;
        sqlx::query(REVOKE_SIGNING_KEY)
            .bind(kid)
            .bind(StoredTime(now))
            .bind(StoredTime(current_from))
            .execute(transaction.statements())
            .await?;
        transaction.commit().await
    }

    async fn remove_signing_key(&self, kid: &str) -> Result<(), StoreError> {
        let mut transaction = self.database.begin(Instant::now() + COMMAND_TIMEOUT).await?;
        sqlx::query("DELETE FROM signing_keys WHERE kid = $1 AND revoked_at IS NULL")
            .bind(kid)
            .execute(transaction.statements())
            .await?;
        transaction.commit().await
    }

    async fn old_texts(&self) -> Result<Vec<OldText>, StoreError> {
        let mut connection = self.database.connection().await?;
        let names = sqlx::query_as::<_, (Uuid, String)>(OLD_NAMES).fetch_all(connection.statements()).await?;
        let users =
            sqlx::query_as::<_, (Uuid, Uuid, String)>(OLD_USERS).fetch_all(connection.statements()).await?;
        let invitations = sqlx::query_as::<_, (Vec<u8>, Uuid, String)>(OLD_INVITATIONS)
            .fetch_all(connection.statements())
            .await?;
        let names = names.into_iter().map(|(id, name)| OldText::Organization(OrganizationId(id), name));
        let users = users.into_iter().map(|(id, organization, email)| {
            OldText::User(UserId(id), OrganizationId(organization), Address(email))
        });
        let invitations = invitations.into_iter().map(|(hash, organization, email)| {
            OldText::Invitation(hash, OrganizationId(organization), Address(email))
        });
        Ok(names.chain(users).chain(invitations).collect())
    }

    async fn renew_text(&self, text: &OldText, form: &str, deadline: Instant) -> Result<bool, StoreError> {
        let (OldText::Organization(organization, _)
        | OldText::User(_, organization, _)
        | OldText::Invitation(_, organization, _)) = text;
        let mut transaction = self.database.begin_for(organization.0, deadline).await?;
        let query = match text {
            OldText::Organization(id, _) => sqlx::query(RENEW_NAME).bind(form).bind(id.0),
            OldText::User(id, _, address) => sqlx::query(RENEW_USER).bind(form).bind(id.0).bind(&address.0),
            OldText::Invitation(hash, _, address) => {
                sqlx::query(RENEW_INVITATION).bind(form).bind(hash).bind(&address.0)
            }
        };
        match query.execute(transaction.statements()).await {
            Ok(_) => transaction.commit().await.map(|()| true),
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
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
            insert_organization(transaction.statements(), SEED_ORGANIZATION, organization, now).await?;
        }
        for seeded in users {
            let home = sqlx::query("SELECT 1 FROM organizations WHERE id = $1")
                .bind(seeded.user.organization_id.0)
                .fetch_optional(transaction.statements())
                .await?;
            // Somebody may have founded an organisation of the same name: then the demo has no home.
            if home.is_some() {
                act_for(transaction.statements(), seeded.user.organization_id.0).await?;
                insert_user(transaction.statements(), SEED_USER, &seeded.user, &seeded.password_hash).await?;
            }
        }
        transaction.commit().await
    }
}

/// Saves the answer, if the write has a key, and commits.
async fn commit(
    mut transaction: BoundedTransaction<sqlx::Postgres>,
    finish: &Finish,
    body: Option<&[u8]>,
) -> Result<(), StoreError> {
    if let Some(saving) = &finish.saving {
        sqlx::query(DELETE_OLD_ANSWERS)
            .bind(StoredTime(saving.at.plus_seconds(-saved::KEPT_SECONDS)))
            .execute(transaction.statements())
            .await?;
        let inserted = sqlx::query(saved::INSERT)
            .bind(saving.scope.as_slice())
            .bind(saving.key_hash.as_slice())
            .bind(saving.fingerprint.as_slice())
            .bind(saving.role.as_str())
            .bind(saving.ids.correlation_id.as_str())
            .bind(saving.ids.trace.trace_id.to_string())
            .bind(saving.ids.trace.span_id.to_string())
            .bind(saving.status.cast_signed())
            .bind(saving.sealed(body)?)
            .bind(StoredTime(saving.at))
            .execute(transaction.statements())
            .await?;
        if inserted.rows_affected() == 0 {
            return Err(StoreError::AlreadyAnswered);
        }
    }
    transaction.commit().await
}

async fn insert_organization(
    statements: InstrumentedConnection<'_, sqlx::Postgres>,
    statement: &'static str,
    organization: &Organization,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement)
        .bind(organization.id.0)
        .bind(&organization.name)
        .bind(&organization.slug)
        .bind(StoredTime(now))
        .bind(lookalike(&organization.name))
        .execute(statements)
        .await?;
    Ok(())
}

async fn insert_user(
    statements: InstrumentedConnection<'_, sqlx::Postgres>,
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
        .execute(statements)
        .await?;
    Ok(())
}

/// Also removes a few sessions that are over, so that the table stays as large as its use.
async fn insert_session(
    mut statements: InstrumentedConnection<'_, sqlx::Postgres>,
    session: &Session,
) -> Result<(), StoreError> {
    sqlx::query(DELETE_EXPIRED_SESSIONS)
        .bind(StoredTime(session.rotated_at.plus_seconds(-KEPT_SECONDS)))
        .execute(statements.reborrow())
        .await?;
    sqlx::query(INSERT_SESSION)
        .bind(session.id.0)
        .bind(session.user_id.0)
        .bind(i64::from(session.counter))
        .bind(StoredTime(session.created_at))
        .bind(StoredTime(session.rotated_at))
        .bind(StoredTime(session.expires_at))
        .execute(statements)
        .await?;
    Ok(())
}

async fn end_sessions(
    statements: InstrumentedConnection<'_, sqlx::Postgres>,
    user: UserId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(END_SESSIONS)
        .bind(StoredTime(now))
        .bind(StoredTime(now))
        .bind(user.0)
        .execute(statements)
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
