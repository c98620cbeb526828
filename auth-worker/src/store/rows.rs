//! Rows as both databases return them, and what they become.

use database::{StoreError, StoredTime};
use shared::contract::auth::{Account, Email, Organization, OrganizationId, Role, SessionId, User, UserId};
use sqlx::FromRow;
use uuid::Uuid;

use super::Session;

#[derive(FromRow)]
pub(super) struct UserRow {
    id: Uuid,
    organization_id: Uuid,
    email: String,
    first_name: String,
    last_name: String,
    role: String,
    created_at: StoredTime,
    updated_at: StoredTime,
}

impl TryFrom<UserRow> for User {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: UserId(row.id),
            email: Email::parse(&row.email).ok_or(StoreError::UnknownValue("email"))?,
            first_name: row.first_name,
            last_name: row.last_name,
            role: role(&row.role)?,
            organization_id: OrganizationId(row.organization_id),
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
        })
    }
}

#[derive(FromRow)]
pub(super) struct CredentialsRow {
    #[sqlx(flatten)]
    user: UserRow,
    password_hash: String,
}

impl TryFrom<CredentialsRow> for (User, String) {
    type Error = StoreError;

    fn try_from(row: CredentialsRow) -> Result<Self, StoreError> {
        Ok((row.user.try_into()?, row.password_hash))
    }
}

#[derive(FromRow)]
pub(super) struct AccountRow {
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

#[derive(FromRow)]
pub(super) struct SessionRow {
    #[sqlx(flatten)]
    user: UserRow,
    session_id: Uuid,
    counter: i64,
    rotated_at: StoredTime,
    expires_at: StoredTime,
}

impl TryFrom<SessionRow> for (Session, User) {
    type Error = StoreError;

    fn try_from(row: SessionRow) -> Result<Self, StoreError> {
        let user = User::try_from(row.user)?;
        let session = Session {
            id: SessionId(row.session_id),
            user_id: user.id,
            counter: u32::try_from(row.counter).map_err(|_| StoreError::UnknownValue("counter"))?,
            rotated_at: row.rotated_at.0,
            expires_at: row.expires_at.0,
        };
        Ok((session, user))
    }
}

/// What a used invitation grants.
#[derive(FromRow)]
pub(super) struct GrantRow {
    organization_id: Uuid,
    role: String,
}

impl TryFrom<GrantRow> for (OrganizationId, Role) {
    type Error = StoreError;

    fn try_from(row: GrantRow) -> Result<Self, StoreError> {
        Ok((OrganizationId(row.organization_id), role(&row.role)?))
    }
}

fn role(text: &str) -> Result<Role, StoreError> {
    text.parse().map_err(|_| StoreError::UnknownValue("role"))
}
