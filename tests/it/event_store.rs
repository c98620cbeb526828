//! What every event store promises, by itself: guards, tenancy, atomicity, lists. Both databases.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use contract::auth::{OrganizationId, Role, UserId};
use contract::events::{Event, EventId, EventStatus, HistoryAction, HistoryEntry, SortBy, SortOrder};
use contract::text::folded;
use contract::{
    CorrelationId, EntityTag, IdempotentRequest, KeyOrigin, RequestIds, SavedResponse, Timestamp,
    TraceContext,
};
use database::{DatabaseUrl, OpenError, StoreError};
use events_worker::store::{Cursor, EventStore, ListQuery, Listing, PageBegin, SqlEventStore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use strum::VariantArray;
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Database, Tables, on_both_databases};

on_both_databases!(
    a_new_database_may_be_opened_by_several_at_once,
    changes_are_guarded_by_status_version_and_organisation,
    of_many_changes_to_one_version_one_wins,
    what_is_not_committed_never_happened,
    nothing_is_begun_or_committed_after_its_deadline,
    who_would_wait_long_for_a_connection_is_refused_at_once,
    events_come_back_as_they_were_stored,
    lists_agree_with_a_plain_sort_and_filter,
    counting_stops_at_the_limit,
    answers_are_kept_once_and_forgotten_when_old,
    of_racing_answers_to_one_key_one_is_kept,
);

/// An empty store, and its tables, which have to live as long.
pub async fn open(database: Database) -> (Arc<dyn EventStore>, Tables) {
    let tables = Tables::fresh(database).await;
    let store = open_at(tables.settings()).await.unwrap();
    (store, tables)
}

async fn open_at(settings: DatabaseUrl) -> Result<Arc<dyn EventStore>, OpenError> {
    Ok(Arc::new(SqlEventStore::open(settings, 10, 100).await?))
}

async fn a_new_database_may_be_opened_by_several_at_once(database: Database) {
    let tables = Tables::fresh(database).await;
    let opened: Vec<_> = (0..6).map(|_| tokio::spawn(open_at(tables.settings()))).collect();
    for store in opened {
        let store = store.await.unwrap();
        assert!(store.is_ok(), "{:?}", store.err());
    }
}

/// The events at home with this text.
pub async fn found_by(store: &dyn EventStore, term: &str) -> Result<Vec<Event>, StoreError> {
    let query = ListQuery {
        organization: HOME,
        only_visible_to: None,
        status: None,
        search: Some(term.to_owned()),
        start_date_from: None,
        start_date_to: None,
        sort_by: SortBy::CreatedAt,
        sort_order: SortOrder::Asc,
        limit: 10,
        begin: PageBegin::Skip(0),
    };
    Ok(store.list(&query, soon()).await?.events)
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// Whose the events of these suites are.
pub const HOME: OrganizationId = OrganizationId(Uuid::from_u128(1));

pub fn event(number: u128) -> Event {
    Event {
        id: EventId(Uuid::from_u128(number)),
        title: "Guarded".to_owned(),
        description: "Test".to_owned(),
        location: None,
        start_date: at("2026-01-01T00:00:00Z"),
        end_date: at("2026-01-02T00:00:00Z"),
        status: EventStatus::Submitted,
        rejection_reason: None,
        organization_id: HOME,
        created_by_id: UserId(Uuid::from_u128(2)),
        created_at: at("2025-01-01T00:00:00Z"),
        updated_at: at("2025-01-01T00:00:00Z"),
        version: 1,
    }
}

/// The first entries of an event's history.
async fn history(store: &dyn EventStore, organization: OrganizationId, id: EventId) -> Vec<HistoryEntry> {
    let placed = store.history(organization, id, None, 100).await.unwrap();
    placed.into_iter().map(|placed| placed.entry).collect()
}

pub async fn insert(store: &dyn EventStore, event: &Event) {
    let mut transaction = store.begin(event.organization_id, soon()).await.unwrap();
    assert!(transaction.insert(event).await.unwrap());
    transaction.commit().await.unwrap();
}

async fn changes_are_guarded_by_status_version_and_organisation(database: Database) {
    let (store, _directory) = open(database).await;
    let event = event(7);
    let mut transaction = store.begin(HOME, soon()).await.unwrap();
    assert!(transaction.insert(&event).await.unwrap());
    assert!(!transaction.insert(&event).await.unwrap(), "an id is inserted once");
    assert_eq!(transaction.find(event.organization_id, event.id).await.unwrap(), Some(event.clone()));
    transaction.commit().await.unwrap();

    let next = Event { status: EventStatus::Approved, version: 2, ..event.clone() };
    let foreign = OrganizationId(Uuid::from_u128(99));
    let mut transaction = store.begin(HOME, soon()).await.unwrap();
    assert!(!transaction.replace(&next, EventStatus::Draft, 1).await.unwrap(), "another status");
    assert!(!transaction.replace(&next, EventStatus::Submitted, 7).await.unwrap(), "another version");
    let stolen = Event { organization_id: foreign, ..next.clone() };
    assert!(!transaction.replace(&stolen, EventStatus::Submitted, 1).await.unwrap(), "another organisation");
    assert!(!transaction.remove(&Event { version: 7, ..event.clone() }).await.unwrap());
    assert!(!transaction.remove(&Event { status: EventStatus::Draft, ..event.clone() }).await.unwrap());
    assert!(!transaction.remove(&stolen).await.unwrap());
    assert!(transaction.replace(&next, EventStatus::Submitted, 1).await.unwrap());
    assert!(!transaction.replace(&next, EventStatus::Submitted, 1).await.unwrap(), "a second time");
    assert_eq!(transaction.find(foreign, event.id).await.unwrap(), None);
    transaction.commit().await.unwrap();

    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), Some(next.clone()));
    assert_eq!(store.find(foreign, event.id).await.unwrap(), None);
    assert_eq!(history(&*store, foreign, event.id).await, []);
    let mut transaction = store.begin(HOME, soon()).await.unwrap();
    assert!(transaction.remove(&next).await.unwrap());
    assert!(!transaction.remove(&next).await.unwrap());
    transaction.commit().await.unwrap();
    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), None);
}

async fn nothing_is_begun_or_committed_after_its_deadline(database: Database) {
    let (store, _directory) = open(database).await;
    let event = event(8);
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut transaction = store.begin(HOME, deadline).await.unwrap();
    assert!(transaction.insert(&event).await.unwrap());
    tokio::time::sleep_until(deadline).await;
    let late = transaction.commit().await;
    assert!(matches!(late, Err(StoreError::Expired)), "{late:?}");
    let late = store.begin(HOME, deadline).await.map(|_| ());
    assert!(matches!(late, Err(StoreError::Expired)), "{late:?}");
    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), None);
}

async fn who_would_wait_long_for_a_connection_is_refused_at_once(database: Database) {
    let (store, _directory) = open(database).await;
    // Every connection that a writer may have: ten on Postgres, one on SQLite.
    let mut holders = Vec::new();
    let begun = loop {
        let begun = Instant::now();
        match store.begin(HOME, soon()).await {
            Ok(transaction) => holders.push(transaction),
            Err(StoreError::Busy) => break begun,
            Err(error) => panic!("{error}"),
        }
    };
    assert!((450..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(holders.len(), if database == Database::Sqlite { 1 } else { 10 });
    // A place that becomes free is taken by who waits for it.
    let (next, ()) = tokio::join!(store.begin(HOME, soon()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        holders.clear();
    });
    assert!(next.is_ok());
}

async fn of_many_changes_to_one_version_one_wins(database: Database) {
    let (store, _directory) = open(database).await;
    for round in 0..10 {
        let event = event(100 + round);
        insert(&*store, &event).await;
        let racers = (0..8).map(|racer| {
            let (store, event) = (Arc::clone(&store), event.clone());
            tokio::spawn(async move {
                let mut transaction = store.begin(HOME, soon()).await.unwrap();
                // Everybody has judged the same version before anybody writes.
                let next = Event { title: format!("Racer {racer}"), version: 2, ..event.clone() };
                let won = if racer == 7 {
                    transaction.remove(&event).await.unwrap()
                } else {
                    transaction.replace(&next, event.status, event.version).await.unwrap()
                };
                transaction.commit().await.unwrap();
                won.then_some(racer)
            })
        });
        let outcomes = futures_util::future::join_all(racers).await;
        let winners: Vec<i32> = outcomes.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let stored = store.find(event.organization_id, event.id).await.unwrap();
        let expected = (winners[0] != 7).then(|| format!("Racer {}", winners[0]));
        assert_eq!(stored.map(|event| event.title), expected);
    }
}

async fn what_is_not_committed_never_happened(database: Database) {
    let (store, _directory) = open(database).await;
    let event = event(7);
    let entry = HistoryEntry {
        at: event.created_at,
        actor: event.created_by_id,
        action: HistoryAction::Created,
        from: None,
        to: Some(EventStatus::Draft),
        reason: None,
        correlation_id: "test-123".to_owned(),
    };
    for commit in [false, true] {
        let mut transaction = store.begin(HOME, soon()).await.unwrap();
        transaction.insert(&event).await.unwrap();
        transaction.record(event.organization_id, event.id, &entry).await.unwrap();
        let seen = store.find(event.organization_id, event.id).await.unwrap();
        assert_eq!(seen, None, "seen before its commit");
        if commit {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
        let expected = if commit { vec![entry.clone()] } else { Vec::new() };
        assert_eq!(history(&*store, event.organization_id, event.id).await, expected);
    }
    let mut transaction = store.begin(HOME, soon()).await.unwrap();
    let rejected = HistoryEntry {
        action: HistoryAction::Rejected,
        from: Some(EventStatus::Submitted),
        to: None,
        reason: Some("Not yet – wörds".to_owned()),
        ..entry.clone()
    };
    transaction.record(event.organization_id, event.id, &rejected).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(history(&*store, event.organization_id, event.id).await, [entry.clone(), rejected.clone()]);
    let first = store.history(event.organization_id, event.id, None, 1).await.unwrap();
    assert_eq!(first[0].entry, entry);
    let rest = store.history(event.organization_id, event.id, Some(first[0].position), 10).await.unwrap();
    assert_eq!((rest.len(), &rest[0].entry), (1, &rejected));
}

async fn events_come_back_as_they_were_stored(database: Database) {
    let (store, _directory) = open(database).await;
    let edge = Event {
        title: "𝕋itle with 'quotes\" \\ % _ and ß".to_owned(),
        description: "Lines\nand\ttabs, ünïcode 🎉".to_owned(),
        location: Some(String::new()),
        start_date: at("0001-01-01T00:00:00Z"),
        end_date: at("9999-12-31T23:59:59.999Z"),
        status: EventStatus::Rejected,
        rejection_reason: Some("No".to_owned()),
        created_at: at("1969-12-31T23:59:59.001Z"),
        version: i64::MAX,
        ..event(u128::MAX)
    };
    for event in [event(1), edge] {
        insert(&*store, &event).await;
        let found = store.find(event.organization_id, event.id).await.unwrap();
        assert_eq!(found, Some(event.clone()));
        let mut transaction = store.begin(HOME, soon()).await.unwrap();
        let next = Event { location: Some("Elsewhere".to_owned()), rejection_reason: None, ..event.clone() };
        assert!(transaction.replace(&next, event.status, event.version).await.unwrap());
        transaction.commit().await.unwrap();
        assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), Some(next));
    }
}

const WORDS: [&str; 8] = ["alpha", "Beta", "GRÖSSE", "straße", "100%", "a_b", "back\\slash", "\"quoted\""];

fn random_event(number: u128, rng: &mut StdRng) -> Event {
    let day = rng.random_range(1..=5);
    Event {
        title: format!("{} {}", WORDS[rng.random_range(0..8)], rng.random_range(0..3)),
        description: WORDS[rng.random_range(0..8)].to_owned(),
        start_date: at(&format!("2026-01-0{day}T00:00:00Z")),
        end_date: at("2026-02-01T00:00:00Z"),
        status: EventStatus::VARIANTS[rng.random_range(0..4)],
        organization_id: OrganizationId(Uuid::from_u128(rng.random_range(1..=2))),
        created_by_id: UserId(Uuid::from_u128(rng.random_range(1..=3))),
        created_at: at(&format!("2025-01-0{}T00:00:00Z", rng.random_range(1..=9))),
        // Ids whose order is not the order of insertion.
        ..event(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }
}

fn random_query(rng: &mut StdRng) -> ListQuery {
    let day = |rng: &mut StdRng| at(&format!("2026-01-0{}T00:00:00Z", rng.random_range(1..=5)));
    let terms = ["alpha", "ALPHA 1", "größe", "ß", "%", "a_", "a%", "\\s", "\"q", "beta", "x", "e 2"];
    ListQuery {
        organization: OrganizationId(Uuid::from_u128(rng.random_range(1..=2))),
        only_visible_to: rng.random_bool(0.5).then(|| UserId(Uuid::from_u128(rng.random_range(1..=3)))),
        status: rng.random_bool(0.4).then(|| EventStatus::VARIANTS[rng.random_range(0..4)]),
        search: rng.random_bool(0.4).then(|| terms[rng.random_range(0..terms.len())].to_owned()),
        start_date_from: rng.random_bool(0.3).then(|| day(rng)),
        start_date_to: rng.random_bool(0.3).then(|| day(rng)),
        sort_by: [SortBy::CreatedAt, SortBy::StartDate, SortBy::Title, SortBy::Status]
            [rng.random_range(0..4)],
        sort_order: if rng.random_bool(0.5) { SortOrder::Asc } else { SortOrder::Desc },
        limit: rng.random_range(1..=20),
        begin: PageBegin::Skip(rng.random_range(0..10)),
    }
}

fn matches(event: &Event, query: &ListQuery) -> bool {
    let text = format!("{}\n{}", folded(&event.title), folded(&event.description));
    event.organization_id == query.organization
        && query
            .only_visible_to
            .is_none_or(|viewer| event.created_by_id == viewer || event.status == EventStatus::Approved)
        && query.status.is_none_or(|status| event.status == status)
        && query.search.as_ref().is_none_or(|term| text.contains(&folded(term)))
        && query.start_date_from.is_none_or(|from| event.start_date >= from)
        && query.start_date_to.is_none_or(|to| event.start_date <= to)
}

fn compare(a: &Event, b: &Event, query: &ListQuery) -> Ordering {
    let order = match query.sort_by {
        SortBy::CreatedAt => a.created_at.cmp(&b.created_at),
        SortBy::StartDate => a.start_date.cmp(&b.start_date),
        SortBy::Title => a.title.cmp(&b.title),
        SortBy::Status => a.status.as_str().cmp(b.status.as_str()),
    };
    let order = order.then(a.id.0.cmp(&b.id.0));
    if query.sort_order == SortOrder::Desc { order.reverse() } else { order }
}

async fn lists_agree_with_a_plain_sort_and_filter(database: Database) {
    let (store, _directory) = open(database).await;
    let mut rng = StdRng::seed_from_u64(4711);
    let events: Vec<Event> = (1..=300).map(|number| random_event(number, &mut rng)).collect();
    for event in &events {
        insert(&*store, event).await;
    }
    let mut pages = 0;
    for _ in 0..150 {
        let mut query = random_query(&mut rng);
        let mut expected: Vec<&Event> = events.iter().filter(|event| matches(event, &query)).collect();
        expected.sort_by(|a, b| compare(a, b, &query));
        let PageBegin::Skip(mut skip) = query.begin else { unreachable!() };
        // The first page by number, those that follow by cursor.
        loop {
            let Listing { events: page, has_next, total } = store.list(&query, soon()).await.unwrap();
            let (from, limit) = (usize::try_from(skip).unwrap(), usize::try_from(query.limit).unwrap());
            let wanted: Vec<Event> =
                expected.iter().skip(from).take(limit).map(|event| (*event).clone()).collect();
            assert_eq!(page, wanted, "{query:?}");
            assert_eq!(total, i64::try_from(expected.len()).unwrap(), "{query:?}");
            assert_eq!(has_next, from + limit < expected.len(), "{query:?}");
            pages += 1;
            if !has_next {
                break;
            }
            skip += query.limit;
            query.begin =
                PageBegin::After(Cursor::after(page.last().unwrap(), query.sort_by, query.sort_order));
        }
    }
    assert!(pages > 300, "only {pages} pages");
}

async fn counting_stops_at_the_limit(database: Database) {
    let (store, _directory) = open(database).await;
    // Several transactions: each has to end within its time, on a busy machine, too.
    for batch in 0..25 {
        let mut transaction = store.begin(HOME, soon()).await.unwrap();
        for number in 1..=402 {
            assert!(transaction.insert(&event(batch * 402 + number)).await.unwrap());
        }
        transaction.commit().await.unwrap();
    }
    let query = ListQuery { search: None, ..random_query(&mut StdRng::seed_from_u64(1)) };
    let query = ListQuery {
        organization: event(1).organization_id,
        only_visible_to: None,
        status: None,
        start_date_from: None,
        start_date_to: None,
        ..query
    };
    assert_eq!(store.list(&query, soon()).await.unwrap().total, events_worker::store::MAX_TOTAL);
}

fn write(number: u8) -> IdempotentRequest {
    IdempotentRequest {
        organization_id: OrganizationId(Uuid::from_u128(1)),
        user_id: UserId(Uuid::from_u128(2)),
        key_hash: [number; 32],
        fingerprint: [number ^ 0xff; 32],
        role: Role::User,
        origin: KeyOrigin::Client,
    }
}

fn saved(write: &IdempotentRequest, text: &str) -> SavedResponse {
    SavedResponse {
        fingerprint: write.fingerprint,
        role: Role::Moderator,
        first: RequestIds {
            correlation_id: CorrelationId::parse("test-123").unwrap(),
            trace: TraceContext::read("0123456789abcdef0123456789abcdef", "0123456789abcdef"),
        },
        status: 201,
        etag: Some(EntityTag(7)),
        location: Some("/events/x".to_owned()),
        body: text.to_owned().into(),
    }
}

async fn answers_are_kept_once_and_forgotten_when_old(database: Database) {
    let (store, _directory) = open(database).await;
    let (now, later) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let bare = SavedResponse { etag: None, location: None, status: 204, ..saved(&write(2), "") };
    for (number, answer, kept_at) in [(1, saved(&write(1), "{\"ä\":1}"), now), (2, bare, later)] {
        let write = write(number);
        assert_eq!(store.find_saved(&write).await.unwrap(), None);
        let mut transaction = store.begin(HOME, soon()).await.unwrap();
        assert!(transaction.save_response(&write, &answer, kept_at).await.unwrap());
        assert!(!transaction.save_response(&write, &saved(&write, "other"), kept_at).await.unwrap());
        assert_eq!(store.find_saved(&write).await.unwrap(), None, "seen before its commit");
        transaction.commit().await.unwrap();
        assert_eq!(store.find_saved(&write).await.unwrap(), Some(answer));
        for stranger in [
            IdempotentRequest { user_id: UserId(Uuid::from_u128(3)), ..write.clone() },
            IdempotentRequest { organization_id: OrganizationId(Uuid::from_u128(4)), ..write.clone() },
            IdempotentRequest { key_hash: [99; 32], ..write.clone() },
        ] {
            assert_eq!(store.find_saved(&stranger).await.unwrap(), None);
        }
    }
    let mut transaction = store.begin(HOME, soon()).await.unwrap();
    assert!(transaction.save_response(&write(3), &saved(&write(3), ""), now).await.unwrap());
    drop(transaction);
    assert_eq!(store.find_saved(&write(3)).await.unwrap(), None, "what was not committed is not kept");

    assert_eq!(store.forget_answers(now, 10, soon()).await.unwrap(), 0);
    assert_eq!(store.forget_answers(later, 10, soon()).await.unwrap(), 1);
    assert_eq!(
        (store.find_saved(&write(1)).await.unwrap(), store.find_saved(&write(2)).await.unwrap().is_some()),
        (None, true)
    );
    for number in 10..20 {
        let mut transaction = store.begin(HOME, soon()).await.unwrap();
        assert!(transaction.save_response(&write(number), &saved(&write(number), ""), now).await.unwrap());
        transaction.commit().await.unwrap();
    }
    assert_eq!(store.forget_answers(later, 7, soon()).await.unwrap(), 7);
    assert_eq!(store.forget_answers(later, 7, soon()).await.unwrap(), 3);
}

async fn of_racing_answers_to_one_key_one_is_kept(database: Database) {
    let (store, _directory) = open(database).await;
    for round in 0..10 {
        let racers = (0..8_u8).map(|racer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let write = write(round);
                let mut transaction = store.begin(HOME, soon()).await.unwrap();
                // The effect, then its answer: the loser must lose both.
                let event = event(u128::from(round) * 100 + u128::from(racer) + 1);
                assert!(transaction.insert(&event).await.unwrap());
                let first = transaction
                    .save_response(&write, &saved(&write, &racer.to_string()), event.created_at)
                    .await;
                let first = first.unwrap();
                if first {
                    transaction.commit().await.unwrap();
                }
                first.then_some(racer)
            })
        });
        let outcomes = futures_util::future::join_all(racers).await;
        let winners: Vec<u8> = outcomes.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        let answer = store.find_saved(&write(round)).await.unwrap().unwrap();
        assert_eq!(answer.body, winners[0].to_string());
        for racer in 0..8 {
            let event = event(u128::from(round) * 100 + racer + 1);
            let found = store.find(event.organization_id, event.id).await.unwrap();
            assert_eq!(found.is_some(), racer == u128::from(winners[0]));
        }
    }
}
