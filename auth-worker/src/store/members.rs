//! The members of an organisation, and what its administrators change about them.

use contract::Timestamp;
use contract::auth::{Member, OrganizationId, Role, UserId};
use database::{Sql, StoreError, StoredTime, query};
use sqlx::FromRow;
use uuid::Uuid;

use super::rows::UserRow;
use super::saved::commit;
use super::sessions::end_sessions;
use super::{AuthStore, Finish};

const LIST_MEMBERS: &str = "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
     updated_at, disabled_at FROM users WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3";

/// Both rows at once, and always in the same order: two administrators who change each other do not deadlock.
const SELECT_MEMBERS: Sql = Sql {
    sqlite: "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
         updated_at, disabled_at FROM users WHERE organization_id = $1 AND id IN ($2, $3)",
    postgres: "SELECT id, organization_id, email, first_name, last_name, role, created_at, \
         updated_at, disabled_at FROM users WHERE organization_id = $1 AND id IN ($2, $3) ORDER BY id FOR UPDATE",
};

const UPDATE_MEMBER: &str = "UPDATE users SET role = $1, disabled_at = $2, updated_at = $3, \
     token_version = token_version + 1, tokens_revoked_at = $3 \
     WHERE id = $4 AND organization_id = $5";

/// What an administrator changes about a member; what is `None` stays.
#[derive(Debug, Clone, Copy)]
pub struct MemberChange {
    /// The administrator.
    pub by: UserId,
    /// The organisation of both.
    pub organization: OrganizationId,
    /// The member.
    pub member: UserId,
    /// The new role.
    pub role: Option<Role>,
    /// Whether the member is locked out.
    pub disabled: Option<bool>,
}

/// Why a member was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeMemberError {
    /// The organisation has no such member.
    #[error("no such member")]
    NotFound,
    /// The caller is no administrator any more.
    #[error("not an administrator")]
    NotPermitted,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(FromRow)]
struct MemberRow {
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

impl AuthStore {
    /// The members of an organisation after the one with this id, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn members(
        &self,
        organization: OrganizationId,
        after: Option<UserId>,
        limit: i64,
    ) -> Result<Vec<Member>, StoreError> {
        let rows = query(LIST_MEMBERS)
            .bind(organization.0)
            .bind(after.map_or(Uuid::nil(), |after| after.0))
            .bind(limit)
            .fetch_all::<MemberRow>(&mut self.database.reader().await?)
            .await?;
        rows.into_iter().map(MemberRow::try_into).collect()
    }

    /// Changes what a member may do. Revokes the member's access tokens if anything changes, and ends the
    /// sessions of one who is disabled.
    ///
    /// # Errors
    /// [`ChangeMemberError`].
    pub async fn change_member(
        &self,
        change: MemberChange,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<Member, ChangeMemberError> {
        let mut transaction = self.database.begin_for(change.organization.0, finish.deadline).await?;
        let rows = query(SELECT_MEMBERS)
            .bind(change.organization.0)
            .bind(change.by.0)
            .bind(change.member.0)
            .fetch_all::<MemberRow>(&mut transaction)
            .await
            .map_err(StoreError::from)?;
        let (member, changed) = changed_member(rows, &change, now)?;
        // Serialising it into memory has no way to fail.
        let body = serde_json::to_vec(&member).unwrap_or_default();
        if changed {
            query(UPDATE_MEMBER)
                .bind(member.user.role.as_str())
                .bind(member.disabled_at)
                .bind(now)
                .bind(change.member.0)
                .bind(change.organization.0)
                .execute(&mut transaction)
                .await
                .map_err(StoreError::from)?;
            if member.disabled_at.is_some() {
                end_sessions(&mut transaction, change.member, now).await?;
            }
        }
        commit(transaction, finish, Some(&body)).await?;
        Ok(member)
    }
}

/// What becomes of the two rows that a change of a member is about: the administrator's and the member's.
/// With it, whether anything changes.
fn changed_member(
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
