//! `auth.end_session`.

use shared::contract::auth::{EndSession, EndSessionError, EndSessionRequest, SessionId};
use shared::contract::{Context, Failure, Handle, NoContent};

use super::Auth;

impl Handle<EndSession> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: EndSessionRequest,
    ) -> Result<NoContent, Failure<EndSessionError>> {
        let not_found = || Failure::Refused(EndSessionError::NotFound);
        let user = cx.principal()?.user_id;
        let id = SessionId::parse(&request.id).ok_or_else(not_found)?;
        if !self.store.end_session(user, id, cx.now, cx.deadline).await? {
            return Err(not_found());
        }
        self.revoked();
        Ok(NoContent {})
    }
}
