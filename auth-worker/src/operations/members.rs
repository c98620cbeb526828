//! `auth.members`.

use shared::contract::auth::{MemberPage, MemberPageMeta, Members, MembersError, MembersRequest};
use shared::contract::{Context, Failure, Handle};

use super::Auth;

impl Handle<Members> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: MembersRequest,
    ) -> Result<MemberPage, Failure<MembersError>> {
        let organization = cx.principal()?.organization_id;
        let after = request.after().map_err(Failure::Refused)?;
        let limit = request.limit.unwrap_or(MembersRequest::DEFAULT_LIMIT);
        // One more, which tells whether another page follows.
        let mut data = self.store.members(organization, after, limit + 1).await?;
        let has_next = i64::try_from(data.len()).is_ok_and(|found| found > limit);
        if has_next {
            data.pop();
        }
        let last = data.last().filter(|_| has_next);
        let next_cursor = last.map(|member| member.user.id.to_string());
        Ok(MemberPage { data, meta: MemberPageMeta { limit, has_next, next_cursor } })
    }
}
