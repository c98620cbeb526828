//! `auth.sessions`.

use contract::auth::{OpenSession, SessionList, Sessions, SessionsError, SessionsRequest};
use contract::page::page;
use contract::{Context, Failure, Handle};

use super::{Auth, IDLE_SECONDS};
use crate::store::OpenSessions;

impl Handle<Sessions> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: SessionsRequest,
    ) -> Result<SessionList, Failure<SessionsError>> {
        let principal = cx.principal()?;
        let used_after = cx.now.plus_seconds(-IDLE_SECONDS);
        let after = request.after().map_err(Failure::Refused)?;
        let limit = request.limit.unwrap_or(SessionsRequest::DEFAULT_LIMIT);
        let wanted =
            OpenSessions { user: principal.user_id, used_after, now: cx.now, after, limit: limit + 1 };
        let sessions = self.store.sessions(wanted).await?;
        let found = sessions.into_iter().map(|session| OpenSession {
            id: session.id,
            created_at: session.created_at,
            refreshed_at: session.rotated_at,
            expires_at: session.expires_at,
            current: session.id == principal.session_id,
        });
        let (data, meta) = page(found.collect(), limit, cx.max_reply, OpenSession::cursor);
        Ok(SessionList { data, meta })
    }
}
