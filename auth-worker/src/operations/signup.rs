//! `auth.signup`.

use contract::auth::{Organization, OrganizationId, SignedIn, Signup, SignupError, SignupRequest, UserId};
use contract::text::{identifier, is_invisible};
use contract::{Answer, Context, Failure, HandleOnce};
use uuid::Uuid;

use super::{Auth, hasher_failure, new_session, token_hash};
use crate::password_policy;
use crate::store::{CreateAccountError, Finish, Membership, NewAccount, SessionUser};

impl HandleOnce<Signup> for Auth {
    async fn handle(&self, cx: &Context, request: SignupRequest) -> Result<Answer, Failure<SignupError>> {
        let address = request.email.clone();
        self.once::<Signup, _>(cx, Some(&address), |finish| self.sign_up(cx, request, finish)).await
    }
}

impl Auth {
    async fn sign_up(
        &self,
        cx: &Context,
        request: SignupRequest,
        finish: Finish,
    ) -> Result<SignedIn, Failure<SignupError>> {
        let names = [
            request.first_name.as_str(),
            request.last_name.as_str(),
            request.organization_name.as_deref().unwrap_or_default(),
        ];
        let password = password_policy::accept(&request.password, &request.email, &names)
            .map_err(|refused| Failure::Refused(SignupError::Refused(refused)))?;
        let membership = match (request.organization_name, request.invitation) {
            (Some(name), _) => {
                let slug = slug(&name).ok_or(Failure::Refused(SignupError::EmptySlug))?;
                Membership::Founder(Organization { id: OrganizationId(Uuid::now_v7()), name, slug })
            }
            (None, Some(invitation)) => Membership::Invited(token_hash(&invitation)),
            (None, None) => return Err(Failure::Refused(SignupError::InvalidInvitation)),
        };
        // Hashed before anything is looked up: how long the answer takes says nothing about the address.
        let password_hash = self.hasher.hash(password, cx.deadline).await.map_err(hasher_failure)?;
        let id = UserId(Uuid::now_v7());
        let session = new_session(id, cx.now);
        let account = NewAccount {
            id,
            membership,
            email: request.email,
            password_hash,
            first_name: request.first_name,
            last_name: request.last_name,
            now: cx.now,
        };
        let user =
            self.store.create_account(account, session, &finish).await.map_err(|error| match error {
                CreateAccountError::EmailTaken => Failure::Refused(SignupError::EmailTaken),
                CreateAccountError::OrganizationTaken => Failure::Refused(SignupError::OrganizationTaken),
                CreateAccountError::InvalidInvitation => Failure::Refused(SignupError::InvalidInvitation),
                CreateAccountError::Store(error) => error.into(),
            })?;
        tracing::info!(user_id = %user.id, organization_id = %user.organization_id, "signed up");
        self.signed_in(SessionUser { user, token_version: 0 }, &session, cx.now)
    }
}

/// Lower-case letters and digits of any script, other runs as one hyphen; `None` when none remain.
fn slug(name: &str) -> Option<String> {
    let lower: String = identifier(name).chars().filter(|character| !is_invisible(*character)).collect();
    let words: Vec<&str> =
        lower.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    (!words.is_empty()).then(|| words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn names_become_slugs_in_any_script() {
        assert_eq!(slug("ACME corp!!").as_deref(), Some("acme-corp"));
        assert_eq!(slug("  Größe & Söhne ").as_deref(), Some("größe-söhne"));
        assert_eq!(slug("東京 2026").as_deref(), Some("東京-2026"));
        assert_eq!(slug("!!! --"), None);
    }
}
