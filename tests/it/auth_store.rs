//! What every auth store promises, by itself: unique names, guards, one use. Both databases.

use std::collections::HashSet;
use std::sync::Arc;

use auth_worker::store::{
    AuthStore, ChangeMemberError, CreateAccountError, Finish, MemberChange, Membership, NewAccount,
    NewInvitation, OpenSessions, PasswordChange, SeedUser, Session, SessionUser,
};
use contract::auth::{Email, Organization, OrganizationId, Role, SessionId, SessionPosition, User, UserId};
use futures_util::future::join_all;
use identity::revocations::Revocation;
use uuid::Uuid;

use super::event_store::{at, soon};
use crate::harness::{Database, Tables, on_both_databases};

on_both_databases!(
    texts_of_an_earlier_version_are_brought_into_the_form_they_are_compared_in,
    accounts_are_found_by_address_and_id,
    addresses_and_organisations_are_taken_once,
    of_racing_signups_one_wins_and_the_others_are_told_why,
    invitations_are_used_once_in_time_and_by_their_address,
    sessions_rotate_once_and_end,
    sessions_are_listed_and_ended_together,
    members_are_listed_and_changed,
    password_hashes_are_replaced_only_where_they_were_read,
    seeding_adds_what_is_missing,
);

/// Of the accounts that [`account`] makes.
const HASH: &str = "$argon2id$first";

async fn open(database: Database) -> (Arc<AuthStore>, Tables) {
    let tables = Tables::fresh(database).await;
    let store = Arc::new(AuthStore::open(tables.settings(), 10, 100).await.unwrap());
    (store, tables)
}

async fn texts_of_an_earlier_version_are_brought_into_the_form_they_are_compared_in(database: Database) {
    let (store, tables) = open(database).await;
    let (ada, _) = found(&store, "josé", "acme").await.unwrap();
    let (eve, _) = found(&store, "eve", "other").await.unwrap();
    assert_eq!(store.old_texts().await.unwrap(), []);
    tables.run("UPDATE organizations SET name_key = NULL").await;
    tables
        .run("UPDATE users SET email_rules = 1, email = 'jose\u{301}@example.com' WHERE email = 'josé@example.com'")
        .await;
    let renew = async || {
        let mut renewed = Vec::new();
        for text in store.old_texts().await.unwrap() {
            renewed.push(match text.form() {
                Some(form) => store.renew_text(&text, &form, soon()).await.unwrap(),
                None => false,
            });
        }
        renewed
    };
    assert_eq!(store.credentials(&email("josé")).await.unwrap(), None);
    assert_eq!(renew().await, [true, true, true]);
    assert_eq!(renew().await, [true; 0]);
    assert_eq!(store.credentials(&email("josé")).await.unwrap().unwrap().0.id, ada.id);
    // One that another row has already stays as it is.
    tables
        .run("UPDATE users SET email_rules = 1, email = 'jose\u{301}@example.com' WHERE email = 'eve@example.com'")
        .await;
    tables.run("UPDATE organizations SET name_key = NULL WHERE slug = 'other'").await;
    tables.run("UPDATE organizations SET name = 'ACME' WHERE slug = 'other'").await;
    assert_eq!(renew().await, [false, false]);
    assert_eq!(store.account(eve.id).await.unwrap().unwrap().organization.name, "ACME");
    // So does an address that is none any more, and its user can still be read.
    tables.run("UPDATE users SET email = 'josé@ex ample.com' WHERE email_rules = 1").await;
    assert_eq!(renew().await, [false, false]);
    assert_eq!(store.account(eve.id).await.unwrap().unwrap().user.email.as_str(), "josé@ex ample.com");
    assert_eq!(store.members(eve.organization_id, None, 10).await.unwrap().len(), 1);
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
        password_hash: HASH.to_owned(),
        first_name: "Ada".to_owned(),
        last_name: "O'Neil-Größe".to_owned(),
        now: at("2026-01-01T00:00:00.123Z"),
    }
}

fn session(user_id: UserId) -> Session {
    Session {
        id: SessionId(Uuid::now_v7()),
        user_id,
        created_at: at("2026-01-01T00:00:00.123Z"),
        ended: false,
        counter: 0,
        rotated_at: at("2026-01-01T00:00:00.123Z"),
        expires_at: at("2026-01-31T00:00:00Z"),
    }
}

fn owner(user: User) -> SessionUser {
    SessionUser { user, token_version: 0 }
}

async fn found(store: &AuthStore, name: &str, home: &str) -> Result<(User, Session), CreateAccountError> {
    let account = account(name, Membership::Founder(organization(home)));
    let session = session(account.id);
    Ok((store.create_account(account, session, &Finish::by(soon())).await?, session))
}

async fn accounts_are_found_by_address_and_id(database: Database) {
    let (store, _directory) = open(database).await;
    let (user, session) = found(&store, "ada", "acme").await.unwrap();
    assert_eq!((user.role, user.first_name.as_str()), (Role::Admin, "Ada"));
    assert_eq!((user.created_at, user.updated_at), (at("2026-01-01T00:00:00.123Z"), user.created_at));
    let known = store.credentials(&email("ada")).await.unwrap();
    assert_eq!(known, Some((user.clone(), HASH.to_owned())));
    assert_eq!(store.credentials(&email("eve")).await.unwrap(), None);
    let account = store.account(user.id).await.unwrap().unwrap();
    assert_eq!(account.user, user);
    assert_eq!((account.organization.name.as_str(), account.organization.slug.as_str()), ("ACME", "acme"));
    assert!(store.account(UserId(Uuid::now_v7())).await.unwrap().is_none());
    assert!(store.email_exists(&email("ada")).await.unwrap());
    assert!(!store.email_exists(&email("eve")).await.unwrap());
    assert_eq!(store.session(session.id).await.unwrap(), Some((session, owner(user))));
}

async fn addresses_and_organisations_are_taken_once(database: Database) {
    let (store, _directory) = open(database).await;
    found(&store, "ada", "acme").await.unwrap();
    assert!(matches!(found(&store, "ada", "other").await, Err(CreateAccountError::EmailTaken)));
    assert!(matches!(found(&store, "eve", "acme").await, Err(CreateAccountError::OrganizationTaken)));
    // What was refused left nothing behind.
    found(&store, "eve", "other").await.unwrap();
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
                (racer % 2, found(&store, &name, &home).await)
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
    let (admin, _) = found(&store, "ada", "acme").await.unwrap();
    let invite = async |token: u8, name: &str, expires_at: &str| {
        let invitation = NewInvitation {
            token_hash: [token; 32],
            organization_id: admin.organization_id,
            email: email(name),
            role: Role::Moderator,
            created_by: admin.id,
            expires_at: at(expires_at),
        };
        store.create_invitation(invitation, &Finish::by(soon())).await.unwrap();
    };
    invite(1, "bob", "2026-01-02T00:00:00Z").await;
    invite(2, "old", "2026-01-01T00:00:00Z").await;
    let join = async |name: &str, token: u8| {
        let account = account(name, Membership::Invited([token; 32]));
        let session = session(account.id);
        store.create_account(account, session, &Finish::by(soon())).await
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
    let (user, _) = found(&store, "ada", "acme").await.unwrap();
    let begin = async |session: Session| {
        store.open_session(user.organization_id, session, HASH, soon()).await.unwrap()
    };
    let old = Session { expires_at: at("2026-01-05T00:00:00Z"), ..session(user.id) };
    begin(old).await.unwrap();
    let current = Session { rotated_at: at("2026-01-10T00:00:00Z"), ..session(user.id) };
    assert_eq!(begin(current).await, Some(owner(user.clone())));
    assert_eq!(store.session(old.id).await.unwrap(), None, "sessions that are over are removed by the way");
    assert_eq!(store.session(current.id).await.unwrap(), Some((current, owner(user.clone()))));

    let now = at("2026-01-11T00:00:00Z");
    let racers = (0..8).map(|_| store.rotate_session(current.id, 0, now, soon()));
    let won = join_all(racers).await.into_iter().filter(|outcome| *outcome.as_ref().unwrap()).count();
    assert_eq!(won, 1);
    assert!(!store.rotate_session(current.id, 0, now, soon()).await.unwrap());
    assert!(!store.rotate_session(SessionId(Uuid::now_v7()), 0, now, soon()).await.unwrap());
    let rotated = Session { counter: 1, rotated_at: now, ..current };
    assert_eq!(store.session(current.id).await.unwrap(), Some((rotated, owner(user.clone()))));
    let stranger = UserId(Uuid::now_v7());
    assert!(!store.end_session(stranger, current.id, now, &Finish::by(soon())).await.unwrap(), "not theirs");
    assert!(store.end_session(user.id, current.id, now, &Finish::by(soon())).await.unwrap());
    assert!(!store.end_session(user.id, current.id, now, &Finish::by(soon())).await.unwrap(), "it is over");
    assert!(store.session(current.id).await.unwrap().unwrap().0.ended);
    assert!(!store.rotate_session(current.id, 1, now, soon()).await.unwrap(), "what is over does not go on");
}

async fn sessions_are_listed_and_ended_together(database: Database) {
    let (store, _directory) = open(database).await;
    let (user, first) = found(&store, "ada", "acme").await.unwrap();
    let (eve, eves) = found(&store, "eve", "other").await.unwrap();
    let day = |day: u32| at(&format!("2026-01-{day:02}T00:00:00Z"));
    let opened = async |rotated_at| {
        let session = Session { rotated_at, ..session(user.id) };
        store.open_session(user.organization_id, session, HASH, soon()).await.unwrap().unwrap();
        session
    };
    // The first one has not been used for days: its access tokens are over.
    let (second, third) =
        (opened(at("2026-01-03T23:59:00Z")).await, opened(at("2026-01-03T23:58:00Z")).await);
    let wanted = |used_after, now| OpenSessions { user: user.id, used_after, now, after: None, limit: 10 };
    let listed = async |used_after, now| -> Vec<SessionId> {
        let sessions = store.sessions(wanted(used_after, now)).await.unwrap();
        sessions.iter().map(|session| session.id).collect()
    };
    let behind = OpenSessions {
        after: Some(SessionPosition(second.rotated_at, second.id)),
        limit: 1,
        ..wanted(day(1), day(4))
    };
    assert_eq!(
        store.sessions(behind).await.unwrap().iter().map(|one| one.id).collect::<Vec<_>>(),
        [third.id]
    );
    assert_eq!(listed(day(1), day(4)).await, [second.id, third.id, first.id]);
    assert_eq!(listed(day(2), day(4)).await, [second.id, third.id], "the first was not used for too long");
    assert!(listed(day(1), day(31)).await.is_empty(), "their time is over");
    let change = PasswordChange {
        user: user.id,
        organization: user.organization_id,
        keep: third.id,
        old: HASH,
        new: "$argon2id$new",
    };
    let other = PasswordChange { old: "$argon2id$other", ..change };
    assert!(!store.change_password(other, day(4), &Finish::by(soon())).await.unwrap());
    assert_eq!(listed(day(1), day(4)).await.len(), 3);
    assert!(store.change_password(change, day(4), &Finish::by(soon())).await.unwrap());
    assert_eq!(listed(day(1), day(4)).await, [third.id]);
    let late = store.open_session(user.organization_id, session(user.id), HASH, soon()).await.unwrap();
    assert_eq!(late, None, "the password is another one by now");
    let end = at("2026-01-04T00:05:00Z");
    store.end_sessions(user.id, end, &Finish::by(soon())).await.unwrap();
    assert!(listed(day(1), day(6)).await.is_empty());
    assert!(!store.session(eves.id).await.unwrap().unwrap().0.ended, "{eve:?}");
    let ended = store.session(first.id).await.unwrap().unwrap().0;
    assert!(ended.ended && ended.expires_at == day(4), "{ended:?}");
    let found: HashSet<Revocation> = store.revocations(day(4)).await.unwrap().into_iter().collect();
    let told = [second.id, third.id].map(Revocation::Session);
    assert_eq!(found, HashSet::from(told), "where there are no tokens, nothing is told");
    assert_eq!(store.revocations(end).await.unwrap(), [Revocation::Session(third.id)]);
}

async fn members_are_listed_and_changed(database: Database) {
    let (store, _directory) = open(database).await;
    let (admin, _) = found(&store, "ada", "acme").await.unwrap();
    let (stranger, _) = found(&store, "eve", "other").await.unwrap();
    let mut members = vec![admin.clone()];
    for (token, name) in [(1, "bob"), (2, "cid")] {
        let invitation = NewInvitation {
            token_hash: [token; 32],
            organization_id: admin.organization_id,
            email: email(name),
            role: Role::Admin,
            created_by: admin.id,
            expires_at: at("2026-01-02T00:00:00Z"),
        };
        store.create_invitation(invitation, &Finish::by(soon())).await.unwrap();
        let account = account(name, Membership::Invited([token; 32]));
        let session = session(account.id);
        members.push(store.create_account(account, session, &Finish::by(soon())).await.unwrap());
    }
    let (bob, cid) = (members[1].clone(), members[2].clone());
    let page = async |after, limit| -> Vec<UserId> {
        let page = store.members(admin.organization_id, after, limit).await.unwrap();
        page.iter().map(|member| member.user.id).collect()
    };
    assert_eq!(page(None, 10).await, [admin.id, bob.id, cid.id]);
    assert_eq!(page(None, 2).await, [admin.id, bob.id]);
    assert_eq!(page(Some(bob.id), 2).await, [cid.id]);

    let now = at("2026-01-03T00:00:00Z");
    let change = MemberChange {
        by: admin.id,
        organization: admin.organization_id,
        member: bob.id,
        role: Some(Role::User),
        disabled: None,
    };
    let apply = async |change| store.change_member(change, now, &Finish::by(soon())).await;
    let demoted = apply(change).await.unwrap();
    assert_eq!((demoted.user.role, demoted.disabled_at, demoted.user.updated_at), (Role::User, None, now));
    apply(change).await.unwrap();
    assert_eq!(store.revocations(now).await.unwrap(), [Revocation::User(bob.id, 1)], "once");
    for (refused, not_found) in [
        (MemberChange { member: stranger.id, ..change }, true),
        (MemberChange { organization: stranger.organization_id, ..change }, true),
        (MemberChange { by: bob.id, member: cid.id, ..change }, false),
        (MemberChange { by: stranger.id, member: cid.id, ..change }, false),
    ] {
        let refusal = apply(refused).await.unwrap_err();
        assert_eq!(matches!(refusal, ChangeMemberError::NotFound), not_found, "{refused:?}: {refusal}");
    }
    let disable = MemberChange { role: None, disabled: Some(true), ..change };
    assert_eq!(apply(disable).await.unwrap().disabled_at, Some(now));
    let opened = store.open_session(bob.organization_id, session(bob.id), HASH, soon()).await.unwrap();
    assert_eq!(opened, None, "who is locked out does not get in");
    let used_after = at("2025-01-01T00:00:00Z");
    let open = OpenSessions { user: bob.id, used_after, now, after: None, limit: 10 };
    assert!(store.sessions(open).await.unwrap().is_empty());
    let enable = MemberChange { disabled: Some(false), ..disable };
    assert_eq!(apply(enable).await.unwrap().disabled_at, None);
    let owner =
        store.open_session(bob.organization_id, session(bob.id), HASH, soon()).await.unwrap().unwrap();
    assert_eq!((owner.user.role, owner.token_version), (Role::User, 3));

    // Two administrators who demote each other: one of them remains.
    let demote = |by, member| apply(MemberChange { by, member, ..change });
    let (first, second) = tokio::join!(demote(admin.id, cid.id), demote(cid.id, admin.id));
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
}

async fn password_hashes_are_replaced_only_where_they_were_read(database: Database) {
    let (store, _directory) = open(database).await;
    let (user, _) = found(&store, "ada", "acme").await.unwrap();
    let stored = async || store.credentials(&email("ada")).await.unwrap().unwrap().1;
    store.replace_password_hash(&user, "$argon2id$other", "$argon2id$new", soon()).await.unwrap();
    assert_eq!(stored().await, "$argon2id$first");
    store.replace_password_hash(&user, "$argon2id$first", "$argon2id$new", soon()).await.unwrap();
    assert_eq!(stored().await, "$argon2id$new");
}

async fn seeding_adds_what_is_missing(database: Database) {
    let (store, _directory) = open(database).await;
    let now = at("2026-01-01T00:00:00Z");
    // Somebody has founded an organisation of the demo's name.
    found(&store, "ada", "taken").await.unwrap();
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
