//! What the rows of several tables have in common.

use contract::auth::{Email, OrganizationId, Role, User, UserId};
use database::{StoreError, StoredTime};
use sqlx::FromRow;
use uuid::Uuid;

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
            email: Email::from_stored(row.email),
            first_name: row.first_name,
            last_name: row.last_name,
            role: role(&row.role)?,
            organization_id: OrganizationId(row.organization_id),
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
        })
    }
}

pub(super) fn role(text: &str) -> Result<Role, StoreError> {
    text.parse().map_err(|_| StoreError::UnknownValue("role"))
}
