//! Access tokens that are not accepted any more although their time is not over, as one process knows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use contract::auth::{SessionId, UserId};
use contract::{Principal, Timestamp};
use parking_lot::RwLock;
use telemetry::metrics::meter;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::claims::{ACCESS_TOKEN_SECONDS, LEEWAY};

/// How long a revocation is of use, in seconds: until the last token that it is about is over by itself.
pub const REVOCATION_SECONDS: i64 = ACCESS_TOKEN_SECONDS + 2 * LEEWAY;
/// Who has not heard for this long what is revoked must not trust a privileged caller.
pub const STALE: Duration = Duration::from_secs(10);

/// One thing that is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// Every token of a session.
    Session(SessionId),
    /// Every token of a user that carries a lower version than this.
    User(UserId, i64),
}

impl Revocation {
    /// What it is kept under.
    pub fn key(&self) -> String {
        match self {
            Self::Session(id) => format!("session.{id}"),
            Self::User(id, _) => format!("user.{id}"),
        }
    }

    /// What is kept under its key.
    pub fn record(&self) -> String {
        match self {
            Self::Session(_) => String::new(),
            Self::User(_, version) => version.to_string(),
        }
    }

    /// Whether this one covers `other`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Session(id), Self::Session(other)) => id == other,
            (Self::User(id, version), Self::User(other, lower)) => id == other && version >= lower,
            _ => false,
        }
    }

    /// Reads what was kept.
    pub fn parse(key: &str, record: &[u8]) -> Option<Self> {
        match key.split_once('.')? {
            ("session", id) => SessionId::parse(id).map(Self::Session),
            ("user", id) => {
                let version = std::str::from_utf8(record).ok()?.parse().ok()?;
                UserId::parse(id).map(|id| Self::User(id, version))
            }
            _ => None,
        }
    }
}

/// Everything that is revoked. What is here was, whatever becomes of the place it was read from.
#[derive(Debug)]
pub struct Revocations {
    known: RwLock<Known>,
    /// When the last complete look at what is revoked began.
    looked: watch::Sender<Option<Instant>>,
}

/// Each with the time at which it is of no use any more.
#[derive(Debug, Default)]
struct Known {
    sessions: HashMap<SessionId, Timestamp>,
    users: HashMap<UserId, (i64, Timestamp)>,
}

impl Revocations {
    /// Nothing has been read yet.
    pub fn unknown() -> Arc<Self> {
        let unknown = Arc::new(Self { known: RwLock::default(), looked: watch::Sender::new(None) });
        unknown.observe();
        unknown
    }

    /// Exports their number, and the time since the last look.
    fn observe(self: &Arc<Self>) {
        let known = Arc::downgrade(self);
        let gauge = meter().u64_observable_gauge("eventboard.revocations.known");
        let gauge = gauge.with_description("Sessions and users whose access tokens are revoked");
        gauge
            .with_callback(move |observer| {
                if let Some(known) = known.upgrade() {
                    observer.observe(u64::try_from(known.len()).unwrap_or(u64::MAX), &[]);
                }
            })
            .build();
        let (known, begun) = (Arc::downgrade(self), Instant::now());
        let gauge = meter().f64_observable_gauge("eventboard.revocations.age").with_unit("s");
        let gauge = gauge.with_description("Since what is revoked was last looked at");
        gauge
            .with_callback(move |observer| {
                if let Some(known) = known.upgrade() {
                    // Counted from the start until the first look.
                    let looked = known.looked.borrow().unwrap_or(begun);
                    observer.observe(looked.elapsed().as_secs_f64(), &[]);
                }
            })
            .build();
    }

    /// Whether this caller's token is revoked.
    pub fn revoke(&self, caller: &Principal) -> bool {
        let known = self.known.read();
        known.sessions.contains_key(&caller.session_id)
            || known.users.get(&caller.user_id).is_some_and(|(version, _)| caller.token_version < *version)
    }

    /// Notes a revocation that was read at `now`, which is later than it was written.
    pub fn note(&self, revocation: Revocation, now: Timestamp) {
        let until = now.plus_seconds(REVOCATION_SECONDS);
        let mut known = self.known.write();
        match revocation {
            Revocation::Session(id) => {
                known.sessions.insert(id, until);
            }
            Revocation::User(id, version) => {
                let highest = known.users.get(&id).map_or(version, |(before, _)| version.max(*before));
                known.users.insert(id, (highest, until));
            }
        }
    }

    /// Notes that everything written before `began` is known. Forgets what is of no use any more.
    pub fn note_look(&self, began: Instant, now: Timestamp) {
        let mut known = self.known.write();
        known.sessions.retain(|_, until| *until > now);
        known.users.retain(|_, (_, until)| *until > now);
        drop(known);
        self.looked.send_replace(Some(began));
    }

    /// How many things are known to be revoked.
    pub fn len(&self) -> usize {
        let known = self.known.read();
        known.sessions.len() + known.users.len()
    }

    /// Whether nothing is known to be revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there was a look at all.
    pub fn are_known(&self) -> bool {
        self.looked.borrow().is_some()
    }

    /// Waits for the first look.
    pub async fn known(&self) {
        let mut looked = self.looked.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = looked.wait_for(Option::is_some).await;
    }

    /// Whether what is known may be out of date.
    pub fn are_stale(&self, now: Instant) -> bool {
        self.looked.borrow().is_none_or(|looked| now.saturating_duration_since(looked) > STALE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::auth::{OrganizationId, Role};
    use uuid::Uuid;

    fn caller(session: u128, user: u128, token_version: i64) -> Principal {
        Principal {
            user_id: UserId(Uuid::from_u128(user)),
            organization_id: OrganizationId(Uuid::nil()),
            role: Role::User,
            session_id: SessionId(Uuid::from_u128(session)),
            token_version,
            expires_at: Timestamp::parse("2026-01-01T00:15:00Z").unwrap(),
        }
    }

    #[test]
    fn sessions_and_versions_are_revoked_and_forgotten_in_time() {
        let revocations = Revocations::unknown();
        let at = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let user = UserId(Uuid::from_u128(2));
        revocations.note(Revocation::Session(SessionId(Uuid::from_u128(1))), at);
        revocations.note(Revocation::User(user, 5), at);
        // A late copy of an older one changes nothing.
        revocations.note(Revocation::User(user, 4), at);
        assert!(revocations.revoke(&caller(1, 9, 0)));
        assert!(revocations.revoke(&caller(9, 2, 4)));
        assert!(!revocations.revoke(&caller(9, 2, 5)));
        assert!(!revocations.revoke(&caller(9, 9, 0)));
        let began = Instant::now();
        revocations.note_look(began, at.plus_seconds(REVOCATION_SECONDS - 1));
        assert_eq!(revocations.len(), 2);
        revocations.note_look(began, at.plus_seconds(REVOCATION_SECONDS));
        assert!(revocations.is_empty());
    }

    #[test]
    fn what_was_not_looked_at_for_long_is_stale() {
        let revocations = Revocations::unknown();
        let began = Instant::now();
        assert!(!revocations.are_known() && revocations.are_stale(began));
        revocations.note_look(began, Timestamp::now());
        assert!(revocations.are_known() && !revocations.are_stale(began + STALE));
        assert!(revocations.are_stale(began + STALE + Duration::from_millis(1)));
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let id = Uuid::from_u128(7);
        for revocation in [Revocation::Session(SessionId(id)), Revocation::User(UserId(id), 12)] {
            let read = Revocation::parse(&revocation.key(), revocation.record().as_bytes());
            assert_eq!(read, Some(revocation));
        }
        let version = |version| Revocation::User(UserId(id), version);
        assert!(version(3).covers(&version(2)) && version(3).covers(&version(3)));
        assert!(!version(2).covers(&version(3)) && !version(3).covers(&Revocation::Session(SessionId(id))));
        for (key, record) in
            [("", ""), ("session", ""), ("session.x", ""), ("user.", "1"), (&format!("user.{id}"), "x")]
        {
            assert_eq!(Revocation::parse(key, record.as_bytes()), None, "{key} {record}");
        }
    }
}
