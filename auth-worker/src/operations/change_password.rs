//! `auth.change_password`.

use contract::auth::{ChangePassword, ChangePasswordError, ChangePasswordRequest, Secret, User};
use contract::{Answer, Context, Failure, HandleOnce, NoContent, Principal};

use super::{Auth, hasher_failure, no_account};
use crate::password_policy;
use crate::store::{Finish, PasswordChange};

impl HandleOnce<ChangePassword> for Auth {
    async fn handle(
        &self,
        cx: &Context,
        request: ChangePasswordRequest,
    ) -> Result<Answer, Failure<ChangePasswordError>> {
        self.once::<ChangePassword, _>(cx, None, |finish| self.change_password(cx, request, finish)).await
    }
}

impl Auth {
    async fn change_password(
        &self,
        cx: &Context,
        request: ChangePasswordRequest,
        finish: Finish,
    ) -> Result<NoContent, Failure<ChangePasswordError>> {
        let principal = cx.principal()?;
        let account = self.store.account(principal.user_id).await?.ok_or_else(no_account)?;
        let (user, organization) = (account.user, account.organization);
        let names = [user.first_name.as_str(), &user.last_name, &organization.name];
        let new = password_policy::accept(&request.new_password, &user.email, &names)
            .map_err(|refused| Failure::Refused(ChangePasswordError::Refused(refused)))?;
        let attempt = self.throttle.admit(&user.email, cx.client_network, cx.deadline).await;
        let attempt =
            attempt.map_err(|refusal| refusal.into_failure(ChangePasswordError::TooManyFailures))?;
        let outcome =
            self.replace_password(cx, principal, &user, &request.current_password, new, &finish).await;
        attempt.settle(&outcome).await;
        outcome?;
        self.revoked();
        tracing::info!(user_id = %user.id, "changed the password");
        Ok(NoContent {})
    }

    async fn replace_password(
        &self,
        cx: &Context,
        principal: &Principal,
        user: &User,
        current: &Secret,
        new: Secret,
        finish: &Finish,
    ) -> Result<(), Failure<ChangePasswordError>> {
        let current = password_policy::normalized(current);
        // Twice, because a login may renew the hash meanwhile.
        for _ in 0..2 {
            let old = self.store.password_hash(user.id).await?.ok_or_else(no_account)?;
            let verified = self.hasher.verify(current.clone(), Some(old.clone()), cx.deadline).await;
            if !verified.map_err(hasher_failure)?.matches {
                break;
            }
            let new = self.hasher.hash(new.clone(), cx.deadline).await.map_err(hasher_failure)?;
            let change = PasswordChange {
                user: user.id,
                organization: user.organization_id,
                keep: principal.session_id,
                old: &old,
                new: &new,
            };
            if self.store.change_password(change, cx.now, finish).await? {
                return Ok(());
            }
        }
        // Another request with the same key may have changed it: then it was no guess, and its answer is given.
        if let Some(saving) = &finish.saving
            && self.store.saved_answer(saving).await?.is_some()
        {
            return Err(Failure::Contended);
        }
        Err(Failure::Refused(ChangePasswordError::WrongPassword))
    }
}
