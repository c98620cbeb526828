//! Rows as both databases return them, and what they become.

use contract::Timestamp;
use contract::auth::{Account, Email, Member, Organization, OrganizationId, Role, SessionId, User, UserId};
use database::{StoreError, StoredTime};
use identity::revocations::Revocation;
use sqlx::FromRow;
use uuid::Uuid;

use super::{ChangeMemberError, MemberChange, Session, SessionUser};
use crate::keyring::SigningKeyRecord;

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
pub(super) struct OwnerRow {
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
pub(super) struct SessionRow {
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
pub(super) struct OwnedSessionRow {
    #[sqlx(flatten)]
    owner: OwnerRow,
    #[sqlx(flatten)]
    session: SessionRow,
}

impl TryFrom<OwnedSessionRow> for (Session, SessionUser) {
    type Error = StoreError;

    fn try_from(row: OwnedSessionRow) -> Result<Self, StoreError> {
        Ok((row.session.try_into()?, row.owner.try_into()?))
    }
}

#[derive(FromRow)]
pub(super) struct MemberRow {
    #[sqlx(flatten)]
    user: UserRow,
    disabled_at: Option<StoredTime>,
}

impl TryFrom<MemberRow> for Member {
    type Error = StoreError;

    fn try_from(row: MemberRow) -> Result<Self, StoreError> {
        Ok(Self { user: row.user.try_into()?, disabled_at: row.disabled_at.map(|at| at.0) })
    }
}

/// A version of a user's tokens, or a session.
#[derive(FromRow)]
pub(super) struct RevocationRow {
    id: Uuid,
    token_version: Option<i64>,
}

impl From<RevocationRow> for Revocation {
    fn from(row: RevocationRow) -> Self {
        match row.token_version {
            Some(version) => Self::User(UserId(row.id), version),
            None => Self::Session(SessionId(row.id)),
        }
    }
}

/// What becomes of the two rows that a change of a member is about: the administrator's and the member's.
/// With it, whether anything changes.
pub(super) fn changed_member(
    rows: Vec<MemberRow>,
    change: &MemberChange,
    now: Timestamp,
) -> Result<(Member, bool), ChangeMemberError> {
    let mut members = rows.into_iter().map(Member::try_from).collect::<Result<Vec<_>, _>>()?;
    let mut take = |id| {
        let position = members.iter().position(|member| member.user.id == id)?;
        Some(members.swap_remove(position))
    };
    let mut member = take(change.member).ok_or(ChangeMemberError::NotFound)?;
    // Asked of the row, whatever the token says: of two administrators who demote each other, one may.
    let by = take(change.by).ok_or(ChangeMemberError::NotPermitted)?;
    if by.user.role != Role::Admin || by.disabled_at.is_some() {
        return Err(ChangeMemberError::NotPermitted);
    }
    let before = member.clone();
    member.user.role = change.role.unwrap_or(member.user.role);
    member.disabled_at = match change.disabled {
        None => member.disabled_at,
        Some(true) => member.disabled_at.or(Some(now)),
        Some(false) => None,
    };
    let changed = member != before;
    if changed {
        member.user.updated_at = now;
    }
    Ok((member, changed))
}

#[derive(FromRow)]
pub(super) struct SigningKeyRow {
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
