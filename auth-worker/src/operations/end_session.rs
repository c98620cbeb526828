//! `auth.end_session`.

use contract::auth::{EndSession, EndSessionError, EndSessionRequest, SessionId};
use contract::{Answer, Context, Failure, HandleOnce, NoContent};

use super::Auth;
use crate::store::Finish;

impl HandleOnce<EndSession> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: EndSessionRequest,
    ) -> Result<Answer, Failure<EndSessionError>> {
        self.once::<EndSession, _>(cx, None, |finish| self.end_one(cx, request, finish)).await
    }
}

impl Auth {
    async fn end_one(
        &self,
        cx: &Context,
        request: EndSessionRequest,
        finish: Finish,
    ) -> Result<NoContent, Failure<EndSessionError>> {
        let not_found = || Failure::Refused(EndSessionError::NotFound);
        let user = cx.principal()?.user_id;
        let id = SessionId::parse(&request.id).ok_or_else(not_found)?;
        if !self.store.end_session(user, id, cx.now, &finish).await? {
            return Err(not_found());
        }
        self.revoked();
        Ok(NoContent {})
    }
}
