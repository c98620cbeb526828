//! Texts of an earlier version, brought into the form in which they are compared.

use contract::auth::{Email, OrganizationId, UserId};
use contract::text::lookalike;
use database::{Sql, StoreError, query};
use tokio::time::Instant;
use uuid::Uuid;

use super::AuthStore;

/// Organisations whose name's form is not known.
const OLD_NAMES: &str = "SELECT id, name FROM organizations WHERE name_key IS NULL";

/// What is ASCII has always been compared in the same form.
const OLD_USERS: Sql = Sql {
    sqlite: "SELECT id, organization_id, email FROM users \
         WHERE email_rules < 2 AND length(CAST(email AS BLOB)) <> length(email)",
    postgres: "SELECT id, organization_id, email FROM users \
         WHERE email_rules < 2 AND octet_length(email) <> char_length(email)",
};

const OLD_INVITATIONS: Sql = Sql {
    sqlite: "SELECT token_hash, organization_id, email FROM invitations \
         WHERE email_rules < 2 AND length(CAST(email AS BLOB)) <> length(email)",
    postgres: "SELECT token_hash, organization_id, email FROM invitations \
         WHERE email_rules < 2 AND octet_length(email) <> char_length(email)",
};

const RENEW_NAME: &str = "UPDATE organizations SET name_key = $1 WHERE id = $2 AND name_key IS NULL";

const RENEW_USER: &str = "UPDATE users SET email = $1, email_rules = 2 WHERE id = $2 AND email = $3";

const RENEW_INVITATION: &str =
    "UPDATE invitations SET email = $1, email_rules = 2 WHERE token_hash = $2 AND email = $3";

/// A text that an earlier version may have written in another form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldText {
    /// An organisation's name, whose form is kept beside it.
    Organization(OrganizationId, String),
    /// A user's address.
    User(UserId, OrganizationId, Address),
    /// The address of an invitation, named by its token's hash.
    Invitation(Vec<u8>, OrganizationId, Address),
}

/// An address as it is stored. Masked in `Debug`: it is personal data.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(pub String);

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(…)")
    }
}

impl OldText {
    /// The form it is compared in; `None` for an address that is none by today's rules.
    pub fn form(&self) -> Option<String> {
        match self {
            Self::Organization(_, name) => Some(lookalike(name)),
            Self::User(_, _, Address(address)) | Self::Invitation(_, _, Address(address)) => {
                Some(Email::parse(address)?.as_str().to_owned())
            }
        }
    }

    /// Whether this form is what stands in the row already.
    pub(crate) fn is_in_form(&self, form: &str) -> bool {
        match self {
            // The name stays; its form stands beside it, and is missing.
            Self::Organization(..) => false,
            Self::User(_, _, Address(address)) | Self::Invitation(_, _, Address(address)) => address == form,
        }
    }
}

impl AuthStore {
    /// Texts that were written by earlier rules, perhaps in another form than the one they are compared in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn old_texts(&self) -> Result<Vec<OldText>, StoreError> {
        let mut reader = self.database.reader().await?;
        let names = query(OLD_NAMES).fetch_all::<(Uuid, String)>(&mut reader).await?;
        let users = query(OLD_USERS).fetch_all::<(Uuid, Uuid, String)>(&mut reader).await?;
        let invitations = query(OLD_INVITATIONS).fetch_all::<(Vec<u8>, Uuid, String)>(&mut reader).await?;
        let names = names.into_iter().map(|(id, name)| OldText::Organization(OrganizationId(id), name));
        let users = users.into_iter().map(|(id, organization, email)| {
            OldText::User(UserId(id), OrganizationId(organization), Address(email))
        });
        let invitations = invitations.into_iter().map(|(hash, organization, email)| {
            OldText::Invitation(hash, OrganizationId(organization), Address(email))
        });
        Ok(names.chain(users).chain(invitations).collect())
    }

    /// Writes a text in the form it is compared in, by which it is no old one any more. `false` when another row
    /// has that form already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn renew_text(
        &self,
        text: &OldText,
        form: &str,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let (OldText::Organization(organization, _)
        | OldText::User(_, organization, _)
        | OldText::Invitation(_, organization, _)) = text;
        let renew = match text {
            OldText::Organization(id, _) => query(RENEW_NAME).bind(form).bind(id.0),
            OldText::User(id, _, address) => query(RENEW_USER).bind(form).bind(id.0).bind(&address.0),
            OldText::Invitation(hash, _, address) => {
                query(RENEW_INVITATION).bind(form).bind(hash.as_slice()).bind(&address.0)
            }
        };
        let mut transaction = self.database.begin_for(organization.0, deadline).await?;
        match renew.execute(&mut transaction).await {
            Ok(_) => transaction.commit().await.map(|()| true),
            Err(error) if error.as_database_error().is_some_and(|error| error.is_unique_violation()) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}
