//! `auth.logout`.

use contract::auth::{Logout, LogoutRequest, RefreshError};
use contract::{Context, Failure, Handle, NoContent};

use super::Auth;
use crate::store::Finish;

impl Handle<Logout> for Auth {
    async fn handle(&self, cx: &Context, request: LogoutRequest) -> Result<NoContent, Failure<RefreshError>> {
        let token = self
            .issuer
            .read_refresh_token(&request.refresh_token)
            .ok_or(Failure::Refused(RefreshError::InvalidToken))?;
        // One that is over already is what was wanted.
        if let Some((session, _)) = self.store.session(token.session_id).await? {
            self.store.end_session(session.user_id, session.id, cx.now, &Finish::by(cx.deadline)).await?;
            self.revoked();
        }
        Ok(NoContent {})
    }
}
