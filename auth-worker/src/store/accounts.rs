//! Users and their organisations: how they come to be, and what they prove who they are with.

use contract::Timestamp;
use contract::auth::{Account, Email, Organization, OrganizationId, Role, SessionId, User, UserId};
use contract::text::lookalike;
use database::{StoreError, Transaction, query};
use sqlx::FromRow;
use tokio::time::Instant;
use uuid::Uuid;

use super::rows::{UserRow, role};
use super::saved::commit;
use super::sessions::{END_OTHER_SESSIONS, insert_session};
use super::{AuthStore, Finish, Session};

const INSERT_ORGANIZATION: &str =
    "INSERT INTO organizations (id, name, slug, created_at, name_key) VALUES ($1, $2, $3, $4, $5)";

const INSERT_USER: &str = "INSERT INTO users (id, organization_id, email, password_hash, first_name, last_name, \
     role, created_at, updated_at, email_rules) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 2)";

/// Of several workers that start at once, the first writes the demo data.
const SEED_ORGANIZATION: &str = "INSERT INTO organizations (id, name, slug, created_at, name_key) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";

const SEED_USER: &str = "INSERT INTO users (id, organization_id, email, password_hash, first_name, last_name, \
     role, created_at, updated_at, email_rules) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 2) \
     ON CONFLICT DO NOTHING";

const ORGANIZATION_EXISTS: &str = "SELECT id FROM organizations WHERE id = $1";

const EMAIL_EXISTS: &str = "SELECT id FROM users WHERE email = $1";

const SELECT_CREDENTIALS: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, password_hash FROM users WHERE email = $1";

const SELECT_ACCOUNT: &str = "SELECT u.id, u.organization_id, u.email, u.first_name, u.last_name, u.role, \
     u.created_at, u.updated_at, o.name, o.slug \
     FROM users u JOIN organizations o ON o.id = u.organization_id WHERE u.id = $1";

const SELECT_PASSWORD_HASH: &str = "SELECT password_hash FROM users WHERE id = $1";

const REPLACE_PASSWORD_HASH: &str =
    "UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = $3";

const CHANGE_PASSWORD: &str = "UPDATE users SET password_hash = $1, updated_at = $2 \
     WHERE id = $3 AND password_hash = $4";

const SELECT_INVITING: &str = "SELECT organization_id FROM invitations WHERE token_hash = $1";

const USE_INVITATION: &str = "UPDATE invitations SET used_at = $1 \
     WHERE token_hash = $2 AND email = $3 AND used_at IS NULL AND expires_at > $1 \
     AND EXISTS (SELECT 1 FROM users u WHERE u.id = created_by_id AND u.role = 'ADMIN' AND u.disabled_at IS NULL) \
     RETURNING organization_id, role";

/// A user about to exist.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The user's id.
    pub id: UserId,
    /// Where the user belongs.
    pub membership: Membership,
    /// The address.
    pub email: Email,
    /// A PHC string.
    pub password_hash: String,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// When.
    pub now: Timestamp,
}

/// How a new user comes to an organisation.
#[derive(Debug, Clone)]
pub enum Membership {
    /// Founds it, and administers it.
    Founder(Organization),
    /// Joins by the invitation with this token hash, in the role it names.
    Invited([u8; 32]),
}

/// Why an account was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateAccountError {
    /// The address is taken.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The organisation's slug is taken.
    #[error("the organisation is taken")]
    OrganizationTaken,
    /// The invitation is unknown, used, expired or for another address.
    #[error("the invitation is not valid")]
    InvalidInvitation,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A password that changes. Not shown by `Debug`: it holds hashes.
#[derive(Clone, Copy)]
pub struct PasswordChange<'a> {
    /// Whose.
    pub user: UserId,
    /// The user's organisation.
    pub organization: OrganizationId,
    /// The session that stays.
    pub keep: SessionId,
    /// The hash that was verified.
    pub old: &'a str,
    /// The new one.
    pub new: &'a str,
}

/// A user of the demo data.
#[derive(Debug, Clone)]
pub struct SeedUser {
    /// The user.
    pub user: User,
    /// A PHC string.
    pub password_hash: String,
}

#[derive(FromRow)]
struct CredentialsRow {
    #[sqlx(flatten)]
    user: UserRow,
    password_hash: String,
}

#[derive(FromRow)]
struct AccountRow {
    #[sqlx(flatten)]
    user: UserRow,
    name: String,
    slug: String,
}

impl TryFrom<AccountRow> for Account {
    type Error = StoreError;

    fn try_from(row: AccountRow) -> Result<Self, StoreError> {
        let user = User::try_from(row.user)?;
        let organization = Organization { id: user.organization_id, name: row.name, slug: row.slug };
        Ok(Self { user, organization })
    }
}

/// What a used invitation grants.
#[derive(FromRow)]
struct GrantRow {
    organization_id: Uuid,
    role: String,
}

impl AuthStore {
    /// Creates a user, founding or joining an organisation, together with a first session.
    ///
    /// # Errors
    /// [`CreateAccountError`].
    pub async fn create_account(
        &self,
        account: NewAccount,
        session: Session,
        finish: &Finish,
    ) -> Result<User, CreateAccountError> {
        let mut transaction = self.database.begin(finish.deadline).await?;
        let (organization_id, role) = match &account.membership {
            Membership::Founder(organization) => {
                insert_organization(&mut transaction, INSERT_ORGANIZATION, organization, account.now)
                    .await
                    .map_err(|error| taken(error, CreateAccountError::OrganizationTaken))?;
                transaction.act_for(organization.id.0).await?;
                (organization.id, Role::Admin)
            }
            Membership::Invited(token_hash) => use_invitation(&mut transaction, &account, token_hash).await?,
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
        commit(transaction, finish, None).await?;
        Ok(user)
    }

    /// Whether an account has this address.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn email_exists(&self, email: &Email) -> Result<bool, StoreError> {
        let found = query(EMAIL_EXISTS)
            .bind(email.as_str())
            .fetch_optional::<(Uuid,)>(&mut self.database.reader().await?)
            .await?;
        Ok(found.is_some())
    }

    /// The user with this address, and their password hash.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn credentials(&self, email: &Email) -> Result<Option<(User, String)>, StoreError> {
        let row = query(SELECT_CREDENTIALS)
            .bind(email.as_str())
            .fetch_optional::<CredentialsRow>(&mut self.database.reader().await?)
            .await?;
        row.map(|row| Ok((row.user.try_into()?, row.password_hash))).transpose()
    }

    /// A user with their organisation.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError> {
        let row = query(SELECT_ACCOUNT)
            .bind(user.0)
            .fetch_optional::<AccountRow>(&mut self.database.reader().await?)
            .await?;
        row.map(AccountRow::try_into).transpose()
    }

    /// A user's password hash.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn password_hash(&self, user: UserId) -> Result<Option<String>, StoreError> {
        let row = query(SELECT_PASSWORD_HASH)
            .bind(user.0)
            .fetch_optional::<(String,)>(&mut self.database.reader().await?)
            .await?;
        Ok(row.map(|(hash,)| hash))
    }

    /// Replaces a password hash by another one of the same password, unless it has changed since `old` was
    /// read.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replace_password_hash(
        &self,
        user: &User,
        old: &str,
        new: &str,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_for(user.organization_id.0, deadline).await?;
        query(REPLACE_PASSWORD_HASH).bind(new).bind(user.id.0).bind(old).execute(&mut transaction).await?;
        transaction.commit().await
    }

    /// Changes a password and ends the user's other sessions. `false` when the hash is not `old` any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_password(
        &self,
        change: PasswordChange<'_>,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.database.begin_for(change.organization.0, finish.deadline).await?;
        let changed = query(CHANGE_PASSWORD)
            .bind(change.new)
            .bind(now)
            .bind(change.user.0)
            .bind(change.old)
            .execute(&mut transaction)
            .await?;
        if changed == 0 {
            return Ok(false);
        }
        query(END_OTHER_SESSIONS)
            .bind(now)
            .bind(change.user.0)
            .bind(change.keep.0)
            .execute(&mut transaction)
            .await?;
        commit(transaction, finish, None).await?;
        Ok(true)
    }

    /// Creates what does not exist yet of these organisations and users.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seed(
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
            let home = seeded.user.organization_id.0;
            let found =
                query(ORGANIZATION_EXISTS).bind(home).fetch_optional::<(Uuid,)>(&mut transaction).await?;
            // A user may have founded an organisation of the same name: then the demo has no home.
            if found.is_some() {
                transaction.act_for(home).await?;
                insert_user(&mut transaction, SEED_USER, &seeded.user, &seeded.password_hash).await?;
            }
        }
        transaction.commit().await
    }
}

/// Uses an invitation up, and returns what it grants.
async fn use_invitation(
    transaction: &mut Transaction,
    account: &NewAccount,
    token_hash: &[u8; 32],
) -> Result<(OrganizationId, Role), CreateAccountError> {
    let inviting = query(SELECT_INVITING)
        .bind(token_hash.as_slice())
        .fetch_optional::<(Uuid,)>(&mut *transaction)
        .await
        .map_err(StoreError::from)?;
    let (inviting,) = inviting.ok_or(CreateAccountError::InvalidInvitation)?;
    transaction.act_for(inviting).await?;
    let grant = query(USE_INVITATION)
        .bind(account.now)
        .bind(token_hash.as_slice())
        .bind(account.email.as_str())
        .fetch_optional::<GrantRow>(transaction)
        .await
        .map_err(StoreError::from)?;
    let grant = grant.ok_or(CreateAccountError::InvalidInvitation)?;
    Ok((OrganizationId(grant.organization_id), role(&grant.role)?))
}

async fn insert_organization(
    transaction: &mut Transaction,
    statement: &'static str,
    organization: &Organization,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    query(statement)
        .bind(organization.id.0)
        .bind(&organization.name)
        .bind(&organization.slug)
        .bind(now)
        .bind(lookalike(&organization.name))
        .execute(transaction)
        .await?;
    Ok(())
}

async fn insert_user(
    transaction: &mut Transaction,
    statement: &'static str,
    user: &User,
    password_hash: &str,
) -> Result<(), sqlx::Error> {
    query(statement)
        .bind(user.id.0)
        .bind(user.organization_id.0)
        .bind(user.email.as_str())
        .bind(password_hash)
        .bind(&user.first_name)
        .bind(&user.last_name)
        .bind(user.role.as_str())
        .bind(user.created_at)
        .bind(user.updated_at)
        .execute(transaction)
        .await?;
    Ok(())
}

/// The refusal that a unique index stands for.
fn taken(error: sqlx::Error, refusal: CreateAccountError) -> CreateAccountError {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => refusal,
        _ => CreateAccountError::Store(error.into()),
    }
}
