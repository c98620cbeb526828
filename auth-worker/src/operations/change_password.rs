//! `auth.change_password`.

use shared::contract::auth::{ChangePassword, ChangePasswordError, ChangePasswordRequest};
use shared::contract::{Context, Failure, Handle, NoContent};

use super::{Auth, Guessed, hasher_failure, no_account};
use crate::passwords;
use crate::store::PasswordChange;

impl Handle<ChangePassword> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: ChangePasswordRequest,
    ) -> Result<NoContent, Failure<ChangePasswordError>> {
        let principal = cx.principal()?;
        let account = self.store.account(principal.user_id).await?.ok_or_else(no_account)?;
        let old = self.store.password_hash(principal.user_id).await?.ok_or_else(no_account)?;
        let (user, organization) = (account.user, account.organization);
        let names = [user.first_name.as_str(), &user.last_name, &organization.name];
        let new = passwords::accept(&request.new_password, &user.email, &names)
            .map_err(|refused| Failure::Refused(ChangePasswordError::Refused(refused)))?;
        let attempt = self.throttle.admit(&user.email, cx.client_network, cx.deadline).await;
        let attempt =
            attempt.map_err(|refusal| refusal.into_failure(ChangePasswordError::TooManyFailures))?;
        let current = passwords::composed(&request.current_password);
        let verified = self.hasher.verify(current, Some(old.clone()), cx.deadline).await;
        attempt
            .settle(match &verified {
                Ok(verified) if verified.matches => Guessed::Right,
                Ok(_) => Guessed::Wrong,
                Err(_) => Guessed::NotTried,
            })
            .await;
        if !verified.map_err(hasher_failure)?.matches {
            return Err(Failure::Refused(ChangePasswordError::WrongPassword));
        }
        let new = self.hasher.hash(new, cx.deadline).await.map_err(hasher_failure)?;
        let change = PasswordChange {
            user: user.id,
            organization: user.organization_id,
            keep: principal.session_id,
            old: &old,
            new: &new,
        };
        if !self.store.change_password(change, cx.now, cx.deadline).await? {
            // Somebody has changed it meanwhile: what was sent as the current one is not.
            return Err(Failure::Refused(ChangePasswordError::WrongPassword));
        }
        self.revoked();
        tracing::info!(user_id = %user.id, "changed the password");
        Ok(NoContent {})
    }
}
