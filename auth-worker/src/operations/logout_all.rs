//! `auth.logout_all`.

use std::convert::Infallible;

use shared::contract::auth::{LogoutAll, LogoutAllRequest};
use shared::contract::{Context, Failure, Handle, NoContent};

use super::Auth;

impl Handle<LogoutAll> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        _request: LogoutAllRequest,
    ) -> Result<NoContent, Failure<Infallible>> {
        let user = cx.principal()?.user_id;
        self.store.end_sessions(user, cx.now, cx.deadline).await?;
        self.revoked();
        tracing::info!(user_id = %user, "signed out everywhere");
        Ok(NoContent {})
    }
}
