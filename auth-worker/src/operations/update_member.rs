//! `auth.update_member`.

use contract::auth::{Member, UpdateMember, UpdateMemberError, UpdateMemberRequest, UserId};
use contract::{Answer, Context, Failure, HandleOnce};

use super::Auth;
use crate::store::{ChangeMemberError, Finish, MemberChange};

impl HandleOnce<UpdateMember> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: UpdateMemberRequest,
    ) -> Result<Answer, Failure<UpdateMemberError>> {
        self.once::<UpdateMember, _>(cx, None, |finish| self.change_member(cx, request, finish)).await
    }
}

impl Auth {
    async fn change_member(
        &self,
        cx: &Context,
        request: UpdateMemberRequest,
        finish: Finish,
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
        let changed = self.store.change_member(change, cx.now, &finish).await;
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
