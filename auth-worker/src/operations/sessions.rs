//! `auth.sessions`.

use std::convert::Infallible;

use shared::contract::auth::{OpenSession, SessionList, Sessions, SessionsRequest};
use shared::contract::{Context, Failure, Handle};

use super::{Auth, IDLE_SECONDS};

impl Handle<Sessions> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        _request: SessionsRequest,
    ) -> Result<SessionList, Failure<Infallible>> {
        let principal = cx.principal()?;
        let used_after = cx.now.plus_seconds(-IDLE_SECONDS);
        let sessions = self.store.sessions(principal.user_id, used_after, cx.now).await?;
        let data = sessions.into_iter().map(|session| OpenSession {
            id: session.id,
            created_at: session.created_at,
            refreshed_at: session.rotated_at,
            expires_at: session.expires_at,
            current: session.id == principal.session_id,
        });
        Ok(SessionList { data: data.collect() })
    }
}
