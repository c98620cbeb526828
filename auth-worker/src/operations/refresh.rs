//! `auth.refresh`.

use shared::contract::auth::{Refresh, RefreshError, RefreshRequest, SignedIn};
use shared::contract::{Context, Failure, Handle};

use super::{Auth, IDLE_SECONDS};

impl Handle<Refresh> for Auth {
    async fn handle(&self, cx: &Context, request: RefreshRequest) -> Result<SignedIn, Failure<RefreshError>> {
        let refused = || Failure::Refused(RefreshError::InvalidToken);
        let token = self.issuer.read_refresh_token(&request.refresh_token).ok_or_else(refused)?;
        let (mut session, user) = self.store.session(token.session_id).await?.ok_or_else(refused)?;
        let over = cx.now >= session.expires_at || cx.now >= session.rotated_at.plus_seconds(IDLE_SECONDS);
        if over || token.counter != session.counter {
            return Err(refused());
        }
        if !self.store.rotate_session(session.id, token.counter, cx.now, cx.deadline).await? {
            return Err(refused());
        }
        session.counter += 1;
        self.signed_in(user, &session, cx.now)
    }
}
