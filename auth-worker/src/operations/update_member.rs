//! `auth.update_member`.

use shared::contract::auth::{Member, UpdateMember, UpdateMemberError, UpdateMemberRequest, UserId};
use shared::contract::{Context, Failure, Handle};

use super::Auth;
use crate::store::{ChangeMemberError, MemberChange};

impl Handle<UpdateMember> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: UpdateMemberRequest,
    ) -> Result<Member, Failure<UpdateMemberError>> {
        let principal = cx.principal()?;
        let member = UserId::parse(&request.id).ok_or(Failure::Refused(UpdateMemberError::NotFound))?;
        if member == principal.user_id {
            return Err(Failure::Refused(UpdateMemberError::Oneself));
        }
        let change = MemberChange {
            by: principal.user_id,
            organization: principal.organization_id,
            member,
            role: request.role,
            disabled: request.disabled,
        };
        let changed = self.store.change_member(change, cx.now, cx.deadline).await;
        let member = changed.map_err(|error| match error {
            ChangeMemberError::NotFound => Failure::Refused(UpdateMemberError::NotFound),
            ChangeMemberError::NotPermitted => Failure::Refused(UpdateMemberError::NotPermitted),
            ChangeMemberError::Store(error) => error.into(),
        })?;
        self.revoked();
        let (by, user_id, role) = (principal.user_id, member.user.id, member.user.role.as_str());
        let disabled = member.disabled_at.is_some();
        tracing::info!(%by, %user_id, role, disabled, "changed a member");
        Ok(member)
    }
}
