//! `auth.members`.

use contract::auth::{MemberPage, Members, MembersError, MembersRequest};
use contract::page::page;
use contract::{Context, Failure, Handle};

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
        // One more, which shows whether another page follows.
        let found = self.store.members(organization, after, limit + 1).await?;
        let (data, meta) = page(found, limit, cx.max_reply, |member| member.user.id.to_string());
        Ok(MemberPage { data, meta })
    }
}
