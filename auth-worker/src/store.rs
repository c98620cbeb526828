//! What the auth worker keeps, as a trait: every method is one transaction.

mod postgres;
mod rows;
mod saved;
mod sqlite;
mod texts;

use std::time::Duration;

use async_trait::async_trait;
use contract::Timestamp;
use contract::auth::{
    Account, Email, Member, Organization, OrganizationId, Role, SessionId, SessionPosition, User, UserId,
};
use contract::text::lookalike;
use database::{PingError, StoreError};
use identity::revocations::{REVOCATION_SECONDS, Revocation};
use tokio::time::Instant;
use uuid::Uuid;

use crate::keyring::SigningKeyRecord;

pub use postgres::PostgresAuthStore;
pub use saved::{Finish, SavedAnswer, Saving};
pub use sqlite::SqliteAuthStore;

/// How long the database may take over what an operator's command changes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a session that is over is kept, in seconds: while its access tokens could be used.
const KEPT_SECONDS: i64 = 2 * REVOCATION_SECONDS;
/// How long after its last refresh a session may still have an access token, in seconds, the grace in which that
/// is given again included.
const TOKENS_SECONDS: i64 = REVOCATION_SECONDS + 30;

/// The users, organisations, sessions and invitations. Every write takes a deadline, after which the
/// server gives up too.
#[async_trait]
pub trait AuthStore: Send + Sync + 'static {
    /// Asks the database for an answer, whatever it is.
    async fn ping(&self) -> Result<(), PingError>;

    /// Creates a user, founding or joining an organisation, together with a first session.
    async fn create_account(
        &self,
        account: NewAccount,
        session: Session,
        finish: &Finish,
    ) -> Result<User, CreateAccountError>;

    /// The user with this address, and their password hash.
    async fn credentials(&self, email: &Email) -> Result<Option<(User, String)>, StoreError>;

    /// A user with their organisation.
    async fn account(&self, user: UserId) -> Result<Option<Account>, StoreError>;

    /// A user's password hash.
    async fn password_hash(&self, user: UserId) -> Result<Option<String>, StoreError>;

    /// Replaces a password hash by another one of the same password, unless it has changed since `old` was
    /// read.
    async fn replace_password_hash(
        &self,
        user: &User,
        old: &str,
        new: &str,
        deadline: Instant,
    ) -> Result<(), StoreError>;

    /// Changes a password and ends the user's other sessions. `false` when the hash is not `old` any more.
    async fn change_password(
        &self,
        change: PasswordChange<'_>,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<bool, StoreError>;

    /// Opens a session for a user of `organization` who has shown to know the password behind `password_hash`. `None` when that is
    /// not the user's any more, or the user is disabled.
    async fn open_session(
        &self,
        organization: OrganizationId,
        session: Session,
        password_hash: &str,
        deadline: Instant,
    ) -> Result<Option<SessionUser>, StoreError>;

    /// A session, with its user. One that was ended may still be there.
    async fn session(&self, id: SessionId) -> Result<Option<(Session, SessionUser)>, StoreError>;

    /// Sessions of a user that are not over, the one used last first.
    async fn sessions(&self, wanted: OpenSessions) -> Result<Vec<Session>, StoreError>;

    /// Counts a session's token up from `counter`. `false` when somebody else was faster, or it was ended.
    async fn rotate_session(
        &self,
        id: SessionId,
        counter: u32,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<bool, StoreError>;

    /// Ends a session of this user's. `false` when there is none that could be ended.
    async fn end_session(
        &self,
        user: UserId,
        id: SessionId,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<bool, StoreError>;

    /// Ends all sessions of a user.
    async fn end_sessions(&self, user: UserId, now: Timestamp, finish: &Finish) -> Result<(), StoreError>;

    /// What was revoked at `since` or later.
    async fn revocations(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError>;

    /// The members of an organisation after the one with this id, in the order of their ids.
    async fn members(
        &self,
        organization: OrganizationId,
        after: Option<UserId>,
        limit: i64,
    ) -> Result<Vec<Member>, StoreError>;

    /// Changes what a member may do. Revokes the member's access tokens if anything changes, and ends the
    /// sessions of one who is disabled.
    async fn change_member(
        &self,
        change: MemberChange,
        now: Timestamp,
        finish: &Finish,
    ) -> Result<Member, ChangeMemberError>;

    /// Whether an account has this address.
    async fn email_exists(&self, email: &Email) -> Result<bool, StoreError>;

    /// Records an invitation.
    async fn create_invitation(&self, invitation: NewInvitation, finish: &Finish) -> Result<(), StoreError>;

    /// The answer that was saved where this one is to be.
    async fn saved_answer(&self, saving: &Saving) -> Result<Option<SavedAnswer>, StoreError>;

    /// The signing keys that were made by command, and the configured one if it is revoked.
    async fn signing_keys(&self) -> Result<Vec<SigningKeyRecord>, StoreError>;

    /// Adds a signing key.
    async fn add_signing_key(&self, key: &SigningKeyRecord, now: Timestamp) -> Result<(), StoreError>;

    /// Revokes a signing key; the configured one gets a row by that, with the time from which it has signed.
    async fn revoke_signing_key(
        &self,
        kid: &str,
        current_from: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Removes a signing key, unless it is revoked.
    async fn remove_signing_key(&self, kid: &str) -> Result<(), StoreError>;

    /// Texts that were written by earlier rules, perhaps in another form than the one they are compared in.
    async fn old_texts(&self) -> Result<Vec<OldText>, StoreError>;

    /// Writes a text in the form it is compared in, by which it is no old one any more. `false` when another row has
    /// that form already.
    async fn renew_text(&self, text: &OldText, form: &str, deadline: Instant) -> Result<bool, StoreError>;

    /// Creates what does not exist yet of these organisations and users.
    async fn seed(
        &self,
        organizations: &[Organization],
        users: &[SeedUser],
        now: Timestamp,
        deadline: Instant,
    ) -> Result<(), StoreError>;
}

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

/// Which sessions are listed.
#[derive(Debug, Clone, Copy)]
pub struct OpenSessions {
    /// Whose.
    pub user: UserId,
    /// Only those that were used after this.
    pub used_after: Timestamp,
    /// Only those that end after this.
    pub now: Timestamp,
    /// Only those that stand behind this one.
    pub after: Option<SessionPosition>,
    /// How many at most.
    pub limit: i64,
}

impl OpenSessions {
    /// Where the list begins: behind everything that could stand in front of it.
    fn begin(&self) -> SessionPosition {
        self.after.unwrap_or(SessionPosition(Timestamp::LATEST, SessionId(Uuid::max())))
    }
}

/// A password that changes. Not shown by `Debug`: it holds hashes.
#[derive(Clone, Copy)]
pub struct PasswordChange<'a> {
    /// Whose.
    pub user: UserId,
    /// The user's organisation.
    pub organization: OrganizationId,
    /// The session that stays.
    pub keep: SessionId,
    /// The hash that was verified.
    pub old: &'a str,
    /// The new one.
    pub new: &'a str,
}

/// What an administrator changes about a member; what is `None` stays.
#[derive(Debug, Clone, Copy)]
pub struct MemberChange {
    /// The administrator.
    pub by: UserId,
    /// The organisation of both.
    pub organization: OrganizationId,
    /// The member.
    pub member: UserId,
    /// The new role.
    pub role: Option<Role>,
    /// Whether the member is locked out.
    pub disabled: Option<bool>,
}

/// Why a member was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeMemberError {
    /// The organisation has no such member.
    #[error("no such member")]
    NotFound,
    /// Whoever wants to is no administrator any more.
    #[error("not an administrator")]
    NotPermitted,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who a session belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionUser {
    /// The user.
    pub user: User,
    /// The version that the user's new tokens carry.
    pub token_version: i64,
}

/// A signed-in session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The session's id.
    pub id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// When the user signed in.
    pub created_at: Timestamp,
    /// Whether it was ended before its time.
    pub ended: bool,
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
