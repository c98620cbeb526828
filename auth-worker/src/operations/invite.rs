//! `auth.invite`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::auth::{Invitation, Invite, InviteError, InviteRequest, Secret};
use contract::{Answer, Context, Failure, HandleOnce};

use super::{Auth, token_hash};
use crate::store::{Finish, NewInvitation};

/// How long an invitation can be used: 7 days, in seconds.
const INVITATION_SECONDS: i64 = 7 * 24 * 60 * 60;

impl HandleOnce<Invite> for Auth {
    async fn handle(&self, cx: &Context, request: InviteRequest) -> Result<Answer, Failure<InviteError>> {
        self.once::<Invite, _>(cx, None, |finish| self.invite(cx, request, finish)).await
    }
}

impl Auth {
    async fn invite(
        &self,
        cx: &Context,
        request: InviteRequest,
        finish: Finish,
    ) -> Result<Invitation, Failure<InviteError>> {
        let principal = cx.principal()?;
        if self.store.email_exists(&request.email).await? {
            return Err(Failure::Refused(InviteError::EmailTaken));
        }
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|error| Failure::internal(&error))?;
        let invitation = Secret::new(URL_SAFE_NO_PAD.encode(random));
        let expires_at = cx.now.plus_seconds(INVITATION_SECONDS);
        let new = NewInvitation {
            token_hash: token_hash(&invitation),
            organization_id: principal.organization_id,
            email: request.email,
            role: request.role,
            created_by: principal.user_id,
            expires_at,
        };
        self.store.create_invitation(new, &finish).await?;
        tracing::info!(by = %principal.user_id, role = request.role.as_str(), "invited a user");
        Ok(Invitation { invitation, expires_at })
    }
}
