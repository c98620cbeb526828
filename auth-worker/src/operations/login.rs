//! `auth.login`.

use contract::auth::{Login, LoginError, LoginRequest, Secret, SignedIn, User};
use contract::{Context, Failure, Handle};
use database::StoreError;

use super::{Auth, hasher_failure, new_session};
use crate::hasher::HasherError;
use crate::password_policy;

impl Handle<Login> for Auth {
    async fn handle(&self, cx: &Context, request: LoginRequest) -> Result<SignedIn, Failure<LoginError>> {
        let attempt = self.throttle.admit(&request.email, cx.client_network, cx.deadline).await;
        let attempt = attempt.map_err(|refusal| refusal.into_failure(LoginError::TooManyFailures))?;
        let outcome = self.sign_in(cx, &request).await;
        attempt.settle(&outcome).await;
        outcome
    }
}

impl Auth {
    async fn sign_in(&self, cx: &Context, request: &LoginRequest) -> Result<SignedIn, Failure<LoginError>> {
        let password = password_policy::normalized(&request.password);
        let mut tried: Option<String> = None;
        // Twice, because the hash may be replaced by one with today's parameters meanwhile.
        for _ in 0..2 {
            let known = self.store.credentials(&request.email).await?;
            let stored = known.as_ref().map(|(_, hash)| hash.clone());
            if tried.is_some() && tried == stored {
                // Locked out. Verifying once more would reveal that the password is right.
                break;
            }
            tried.clone_from(&stored);
            // An unknown address is verified against a hash of an unknown password.
            let verified = self.hasher.verify(password.clone(), stored, cx.deadline).await;
            let verified = verified.map_err(hasher_failure)?;
            let (user, stored) = match known {
                Some(known) if verified.matches => known,
                _ => break,
            };
            let session = new_session(user.id, cx.now);
            let opened = self.store.open_session(user.organization_id, session, &stored, cx.deadline).await?;
            let Some(owner) = opened else { continue };
            if verified.outdated
                && let Err(error) = self.renew_hash(cx, &user, &stored, password.clone()).await
            {
                // The next login tries it again.
                tracing::warn!(%error, "could not renew a password hash");
            }
            tracing::info!(user_id = %user.id, "signed in");
            return self.signed_in(owner, &session, cx.now);
        }
        Err(Failure::Refused(LoginError::InvalidCredentials))
    }

    /// Replaces a hash by one with today's parameters.
    async fn renew_hash(
        &self,
        cx: &Context,
        user: &User,
        stored: &str,
        password: Secret,
    ) -> Result<(), RenewError> {
        let fresh = self.hasher.hash(password, cx.deadline).await?;
        Ok(self.store.replace_password_hash(user, stored, &fresh, cx.deadline).await?)
    }
}

/// Why a hash was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Hasher(#[from] HasherError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
