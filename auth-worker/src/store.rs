//! What the auth worker stores. Every method is one transaction or one look-up; every write has a deadline, after
//! which the database gives up, too.

mod accounts;
mod invitations;
mod members;
mod rows;
mod saved;
mod sessions;
mod signing_keys;
mod texts;

use database::{Database, DatabaseUrl, Migrations, OpenError, PingError};

pub use accounts::{CreateAccountError, Membership, NewAccount, PasswordChange, SeedUser};
pub use invitations::NewInvitation;
pub use members::{ChangeMemberError, MemberChange};
pub use saved::{Finish, SavedAnswer, Saving};
pub use sessions::{OpenSessions, Session, SessionUser};
pub use texts::{Address, OldText};

/// Users, organisations, sessions, invitations and signing keys.
#[derive(Debug)]
pub struct AuthStore {
    database: Database,
}

impl AuthStore {
    /// Opens the database and brings its schema up to date. The limits are those of [`Database::open`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(url: DatabaseUrl, connections: u32, statement_cache: usize) -> Result<Self, OpenError> {
        let migrations = Migrations {
            sqlite: sqlx::migrate!("migrations/sqlite"),
            postgres: sqlx::migrate!("migrations/postgres"),
        };
        Ok(Self { database: Database::open(url, connections, statement_cache, migrations).await? })
    }

    /// Asks whether the database answers and takes changes.
    ///
    /// # Errors
    /// [`PingError`].
    pub async fn ping(&self) -> Result<(), PingError> {
        self.database.ping().await
    }
}
