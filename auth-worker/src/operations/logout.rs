//! `auth.logout`.

use shared::contract::auth::{Logout, LogoutRequest, RefreshError};
use shared::contract::{Context, Failure, Handle, NoContent};

use super::Auth;

impl Handle<Logout> for Auth {
    async fn handle(&self, cx: &Context, request: LogoutRequest) -> Result<NoContent, Failure<RefreshError>> {
        let token = self
            .issuer
            .read_refresh_token(&request.refresh_token)
            .ok_or(Failure::Refused(RefreshError::InvalidToken))?;
        self.store.close_session(token.session_id, cx.deadline).await?;
        Ok(NoContent {})
    }
}
