//! Invitations into an organisation.

use contract::Timestamp;
use contract::auth::{Email, OrganizationId, Role, UserId};
use database::{StoreError, query};

use super::saved::commit;
use super::{AuthStore, Finish};

const INSERT_INVITATION: &str = "INSERT INTO invitations (token_hash, organization_id, email, role, created_by_id, \
     expires_at, email_rules) VALUES ($1, $2, $3, $4, $5, $6, 2)";

/// An invitation about to exist.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// SHA-256 of the token; the token itself is stored nowhere.
    pub token_hash: [u8; 32],
    /// Into which organisation.
    pub organization_id: OrganizationId,
    /// For whom.
    pub email: Email,
    /// As what.
    pub role: Role,
    /// By whom.
    pub created_by: UserId,
    /// Until when.
    pub expires_at: Timestamp,
}

impl AuthStore {
    /// Records an invitation.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_invitation(
        &self,
        invitation: NewInvitation,
        finish: &Finish,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_for(invitation.organization_id.0, finish.deadline).await?;
        query(INSERT_INVITATION)
            .bind(invitation.token_hash.as_slice())
            .bind(invitation.organization_id.0)
            .bind(invitation.email.as_str())
            .bind(invitation.role.as_str())
            .bind(invitation.created_by.0)
            .bind(invitation.expires_at)
            .execute(&mut transaction)
            .await?;
        commit(transaction, finish, None).await
    }
}
