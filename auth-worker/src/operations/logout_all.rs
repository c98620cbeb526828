//! `auth.logout_all`.

use std::convert::Infallible;

use contract::auth::{LogoutAll, LogoutAllRequest};
use contract::{Answer, Context, Failure, HandleOnce, NoContent};

use super::Auth;
use crate::store::Finish;

impl HandleOnce<LogoutAll> for Auth {
    async fn handle(&self, cx: &Context, _request: LogoutAllRequest) -> Result<Answer, Failure<Infallible>> {
        self.once::<LogoutAll, _>(cx, None, |finish| self.end_all(cx, finish)).await
    }
}

impl Auth {
    async fn end_all(&self, cx: &Context, finish: Finish) -> Result<NoContent, Failure<Infallible>> {
        let user = cx.principal()?.user_id;
        self.store.end_sessions(user, cx.now, &finish).await?;
        self.revoked();
        tracing::info!(user_id = %user, "signed out everywhere");
        Ok(NoContent {})
    }
}
