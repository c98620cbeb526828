//! What the auth worker keeps, as a trait: every method is one transaction.

mod postgres;
mod rows;
mod sqlite;

use async_trait::async_trait;
use database::StoreError;
use shared::contract::Timestamp;
use shared::contract::auth::{Account, Email, Organization, OrganizationId, Role, SessionId, User, UserId};
use tokio::time::Instant;

pub use postgres::PostgresAuthStore;
pub use sqlite::SqliteAuthStore;

/// The users, organisations, sessions and invitations. Every write takes a deadline, after which the
/// server gives up too.
#[async_trait]
pub trait AuthStore: Send + Sync + 'static {
    /// Asks the database for an answer, whatever it is.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Creates a user, founding or joining an organisation, together with a first session.
    async fn create_account(
        &self,
        account: NewAccount,
        session: Session,
        deadline: Instant,
    ) -> Result<User, CreateAccountError>;

    /// The user with this address, and their password hash.
    async fn credentials(&self, email: &Email) -> Result<Option<(User, String)>, StoreError>;

    /// A user with their organisation.
    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError>;

    /// Replaces a password hash, unless it has changed since `old` was read.
    async fn replace_password_hash(
        &self,
        user: UserId,
        old: &str,
        new: &str,
        deadline: Instant,
    ) -> Result<(), StoreError>;

    /// Opens a session.
    async fn open_session(&self, session: Session, deadline: Instant) -> Result<(), StoreError>;

    /// A session, with its user.
    async fn session(&self, id: SessionId) -> Result<Option<(Session, User)>, StoreError>;

    /// Counts a session's token up from `counter`. `false` when somebody else was faster.
    async fn rotate_session(
        &self,
        id: SessionId,
        counter: u32,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<bool, StoreError>;

    /// Ends a session. Ending it again changes nothing.
    async fn close_session(&self, id: SessionId, deadline: Instant) -> Result<(), StoreError>;

    /// Whether an account has this address.
    async fn email_exists(&self, email: &Email) -> Result<bool, StoreError>;

    /// Records an invitation.
    async fn create_invitation(&self, invitation: NewInvitation, deadline: Instant)
    -> Result<(), StoreError>;

    /// Creates what does not exist yet of these organisations and users.
    async fn seed(
        &self,
        organizations: &[Organization],
        users: &[SeedUser],
        now: Timestamp,
        deadline: Instant,
    ) -> Result<(), StoreError>;
}

/// A user about to exist.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The user's id.
    pub id: UserId,
    /// Where the user belongs.
    pub membership: Membership,
    /// The address.
    pub email: Email,
    /// A PHC string.
    pub password_hash: String,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// When.
    pub now: Timestamp,
}

/// How a new user comes to an organisation.
#[derive(Debug, Clone)]
pub enum Membership {
    /// Founds it, and administers it.
    Founder(Organization),
    /// Joins by the invitation with this token hash, in the role it names.
    Invited([u8; 32]),
}

/// Why an account was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateAccountError {
    /// The address is taken.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The organisation's slug is taken.
    #[error("the organisation is taken")]
    OrganizationTaken,
    /// The invitation is unknown, used, expired or for another address.
    #[error("the invitation is not valid")]
    InvalidInvitation,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A signed-in session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// The number of the newest refresh token.
    pub counter: u32,
    /// When the newest refresh token was issued.
    pub rotated_at: Timestamp,
    /// When the session ends, however active it is.
    pub expires_at: Timestamp,
}

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

/// A user of the demo data.
#[derive(Debug, Clone)]
pub struct SeedUser {
    /// The user.
    pub user: User,
    /// A PHC string.
    pub password_hash: String,
}
