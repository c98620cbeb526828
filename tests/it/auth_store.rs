//! What every auth store promises, by itself: unique names, guards, one use. Both databases.

use std::sync::Arc;

use auth_worker::store::{
    AuthStore, CreateAccountError, Membership, NewAccount, NewInvitation, PostgresAuthStore, SeedUser,
    Session, SqliteAuthStore,
};
use database::{DatabaseSettings, DatabaseUrl};
use futures_util::future::join_all;
use shared::contract::auth::{Email, Organization, OrganizationId, Role, SessionId, User, UserId};
use tempfile::TempDir;
use uuid::Uuid;

use super::event_store::{at, soon};
use crate::harness::{Database, on_both_databases};

on_both_databases!(
    accounts_are_found_by_address_and_id,
    addresses_and_organisations_are_taken_once,
    of_racing_signups_one_wins_and_the_others_are_told_why,
    invitations_are_used_once_in_time_and_by_their_address,
    sessions_rotate_once_and_end,
    password_hashes_are_replaced_only_where_they_were_read,
    seeding_adds_what_is_missing,
);

async fn open(database: Database) -> (Arc<dyn AuthStore>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = DatabaseSettings::at(database.fresh().await);
    let store: Arc<dyn AuthStore> = match settings.resolve(&directory.path().join("auth.db")).unwrap() {
        DatabaseUrl::Sqlite(path) => Arc::new(SqliteAuthStore::open(&path).await.unwrap()),
        DatabaseUrl::Postgres(options) => Arc::new(PostgresAuthStore::open(*options, 10).await.unwrap()),
    };
    (store, directory)
}

fn email(name: &str) -> Email {
    Email::parse(&format!("{name}@example.com")).unwrap()
}

fn organization(name: &str) -> Organization {
    Organization { id: OrganizationId(Uuid::now_v7()), name: name.to_uppercase(), slug: name.to_owned() }
}

fn account(name: &str, membership: Membership) -> NewAccount {
    NewAccount {
        id: UserId(Uuid::now_v7()),
        membership,
        email: email(name),
        password_hash: "$argon2id$first".to_owned(),
        first_name: "Ada".to_owned(),
        last_name: "O'Neil-Größe".to_owned(),
        now: at("2026-01-01T00:00:00.123Z"),
    }
}

fn session(user_id: UserId) -> Session {
    Session {
        id: SessionId(Uuid::now_v7()),
        user_id,
        counter: 0,
        rotated_at: at("2026-01-01T00:00:00.123Z"),
        expires_at: at("2026-01-31T00:00:00Z"),
    }
}

async fn found(store: &dyn AuthStore, name: &str, home: &str) -> Result<(User, Session), CreateAccountError> {
    let account = account(name, Membership::Founder(organization(home)));
    let session = session(account.id);
    Ok((store.create_account(account, session, soon()).await?, session))
}

async fn accounts_are_found_by_address_and_id(database: Database) {
    let (store, _directory) = open(database).await;
    let (user, session) = found(&*store, "ada", "acme").await.unwrap();
    assert_eq!((user.role, user.first_name.as_str()), (Role::Admin, "Ada"));
    assert_eq!((user.created_at, user.updated_at), (at("2026-01-01T00:00:00.123Z"), user.created_at));
    let known = store.credentials(&email("ada")).await.unwrap();
    assert_eq!(known, Some((user.clone(), "$argon2id$first".to_owned())));
    assert_eq!(store.credentials(&email("eve")).await.unwrap(), None);
    let account = store.account(user.id).await.unwrap().unwrap();
    assert_eq!(account.user, user);
    assert_eq!((account.organization.name.as_str(), account.organization.slug.as_str()), ("ACME", "acme"));
    assert!(store.account(UserId(Uuid::now_v7())).await.unwrap().is_none());
    assert!(store.email_exists(&email("ada")).await.unwrap());
    assert!(!store.email_exists(&email("eve")).await.unwrap());
    assert_eq!(store.session(session.id).await.unwrap(), Some((session, user)));
}

async fn addresses_and_organisations_are_taken_once(database: Database) {
    let (store, _directory) = open(database).await;
    found(&*store, "ada", "acme").await.unwrap();
    assert!(matches!(found(&*store, "ada", "other").await, Err(CreateAccountError::EmailTaken)));
    assert!(matches!(found(&*store, "eve", "acme").await, Err(CreateAccountError::OrganizationTaken)));
    // What was refused left nothing behind.
    found(&*store, "eve", "other").await.unwrap();
}

async fn of_racing_signups_one_wins_and_the_others_are_told_why(database: Database) {
    let (store, _directory) = open(database).await;
    for round in 0..5 {
        let racers = (0..8).map(|racer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let (name, home) = match racer % 2 {
                    0 => (format!("ada-{round}"), format!("acme-{round}-{racer}")),
                    _ => (format!("eve-{round}-{racer}"), format!("shared-{round}")),
                };
                (racer % 2, found(&*store, &name, &home).await)
            })
        });
        let outcomes: Vec<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
        for kind in [0, 1] {
            let won = outcomes.iter().filter(|(of, outcome)| *of == kind && outcome.is_ok()).count();
            assert_eq!(won, 1, "{outcomes:?}");
        }
        for (kind, outcome) in &outcomes {
            match (kind, outcome) {
                (_, Ok(_))
                | (0, Err(CreateAccountError::EmailTaken))
                | (1, Err(CreateAccountError::OrganizationTaken)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn invitations_are_used_once_in_time_and_by_their_address(database: Database) {
    let (store, _directory) = open(database).await;
    let (admin, _) = found(&*store, "ada", "acme").await.unwrap();
    let invite = async |token: u8, name: &str, expires_at: &str| {
        let invitation = NewInvitation {
            token_hash: [token; 32],
            organization_id: admin.organization_id,
            email: email(name),
            role: Role::Moderator,
            created_by: admin.id,
            expires_at: at(expires_at),
        };
        store.create_invitation(invitation, soon()).await.unwrap();
    };
    invite(1, "bob", "2026-01-02T00:00:00Z").await;
    invite(2, "old", "2026-01-01T00:00:00Z").await;
    let join = async |name: &str, token: u8| {
        let account = account(name, Membership::Invited([token; 32]));
        let session = session(account.id);
        store.create_account(account, session, soon()).await
    };
    for (name, token) in [("bob", 9), ("old", 2), ("eve", 1)] {
        let refused = join(name, token).await;
        assert!(matches!(refused, Err(CreateAccountError::InvalidInvitation)), "{name}: {refused:?}");
    }
    let racers = join_all((0..6).map(|_| join("bob", 1))).await;
    let joined: Vec<&User> = racers.iter().flatten().collect();
    assert_eq!(joined.len(), 1, "{racers:?}");
    let used = |outcome: &&Result<User, _>| matches!(outcome, Err(CreateAccountError::InvalidInvitation));
    assert_eq!(racers.iter().filter(used).count(), 5, "{racers:?}");
    assert_eq!((joined[0].role, joined[0].organization_id), (Role::Moderator, admin.organization_id));
}

async fn sessions_rotate_once_and_end(database: Database) {
    let (store, _directory) = open(database).await;
    let (user, _) = found(&*store, "ada", "acme").await.unwrap();
    let old = Session { expires_at: at("2026-01-05T00:00:00Z"), ..session(user.id) };
    store.open_session(old, soon()).await.unwrap();
    let current = Session { rotated_at: at("2026-01-10T00:00:00Z"), ..session(user.id) };
    store.open_session(current, soon()).await.unwrap();
    assert_eq!(store.session(old.id).await.unwrap(), None, "sessions that are over are removed by the way");
    assert_eq!(store.session(current.id).await.unwrap(), Some((current, user.clone())));

    let now = at("2026-01-11T00:00:00Z");
    let racers = (0..8).map(|_| store.rotate_session(current.id, 0, now, soon()));
    let won = join_all(racers).await.into_iter().filter(|outcome| *outcome.as_ref().unwrap()).count();
    assert_eq!(won, 1);
    assert!(!store.rotate_session(current.id, 0, now, soon()).await.unwrap());
    assert!(!store.rotate_session(SessionId(Uuid::now_v7()), 0, now, soon()).await.unwrap());
    let rotated = Session { counter: 1, rotated_at: now, ..current };
    assert_eq!(store.session(current.id).await.unwrap(), Some((rotated, user)));
    for _ in 0..2 {
        store.close_session(current.id, soon()).await.unwrap();
        assert_eq!(store.session(current.id).await.unwrap(), None);
    }
}

async fn password_hashes_are_replaced_only_where_they_were_read(database: Database) {
    let (store, _directory) = open(database).await;
    let (user, _) = found(&*store, "ada", "acme").await.unwrap();
    let stored = async || store.credentials(&email("ada")).await.unwrap().unwrap().1;
    store.replace_password_hash(user.id, "$argon2id$other", "$argon2id$new", soon()).await.unwrap();
    assert_eq!(stored().await, "$argon2id$first");
    store.replace_password_hash(user.id, "$argon2id$first", "$argon2id$new", soon()).await.unwrap();
    assert_eq!(stored().await, "$argon2id$new");
}

async fn seeding_adds_what_is_missing(database: Database) {
    let (store, _directory) = open(database).await;
    let now = at("2026-01-01T00:00:00Z");
    // Somebody has founded an organisation of the demo's name.
    found(&*store, "ada", "taken").await.unwrap();
    let organizations = [organization("demo"), organization("taken")];
    let user = |name: &str, home: &Organization| SeedUser {
        user: User {
            id: UserId(Uuid::now_v7()),
            email: email(name),
            first_name: "Demo".to_owned(),
            last_name: "User".to_owned(),
            role: Role::User,
            organization_id: home.id,
            created_at: now,
            updated_at: now,
        },
        password_hash: "$argon2id$demo".to_owned(),
    };
    let users =
        [user("one", &organizations[0]), user("two", &organizations[1]), user("ada", &organizations[0])];
    // Several workers start at once.
    let seeds = join_all((0..4).map(|_| store.seed(&organizations, &users, now, soon()))).await;
    assert!(seeds.iter().all(Result::is_ok), "{seeds:?}");
    let (one, hash) = store.credentials(&email("one")).await.unwrap().unwrap();
    assert_eq!((one, hash.as_str()), (users[0].user.clone(), "$argon2id$demo"));
    assert!(!store.email_exists(&email("two")).await.unwrap(), "a stranger's organisation is no home");
    let (ada, hash) = store.credentials(&email("ada")).await.unwrap().unwrap();
    assert_eq!((ada.role, hash.as_str()), (Role::Admin, "$argon2id$first"));
}
