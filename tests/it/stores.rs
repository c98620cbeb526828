//! The event store by itself: guards, tenancy and atomicity, whatever the handlers above do.

use events_worker::store::{EventStore, SqliteEventStore};
use shared::contract::Timestamp;
use shared::contract::auth::{OrganizationId, UserId};
use shared::contract::events::{Event, EventId, EventStatus, HistoryAction, HistoryEntry};
use uuid::Uuid;

fn event() -> Event {
    let at = |text| Timestamp::parse(text).unwrap();
    Event {
        id: EventId(Uuid::from_u128(7)),
        title: "Guarded".to_owned(),
        description: "Test".to_owned(),
        location: None,
        start_date: at("2026-01-01T00:00:00Z"),
        end_date: at("2026-01-02T00:00:00Z"),
        status: EventStatus::Submitted,
        rejection_reason: None,
        organization_id: OrganizationId(Uuid::from_u128(1)),
        created_by_id: UserId(Uuid::from_u128(2)),
        created_at: at("2025-01-01T00:00:00Z"),
        updated_at: at("2025-01-01T00:00:00Z"),
        version: 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_guarded_by_status_version_and_organisation() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(&directory.path().join("events.db")).await.unwrap();
    let event = event();
    let mut transaction = store.begin().await.unwrap();
    assert!(transaction.insert(&event).await.unwrap());
    assert!(!transaction.insert(&event).await.unwrap(), "an id is inserted once");
    transaction.commit().await.unwrap();

    let next = Event { status: EventStatus::Approved, version: 2, ..event.clone() };
    let foreign = OrganizationId(Uuid::from_u128(99));
    let mut transaction = store.begin().await.unwrap();
    assert!(!transaction.replace(&next, EventStatus::Draft, 1).await.unwrap(), "another status");
    assert!(!transaction.replace(&next, EventStatus::Submitted, 7).await.unwrap(), "another version");
    let stolen = Event { organization_id: foreign, ..next.clone() };
    assert!(!transaction.replace(&stolen, EventStatus::Submitted, 1).await.unwrap(), "another organisation");
    assert!(!transaction.remove(&Event { version: 7, ..event.clone() }).await.unwrap());
    assert!(!transaction.remove(&stolen).await.unwrap());
    assert!(transaction.replace(&next, EventStatus::Submitted, 1).await.unwrap());
    assert!(!transaction.replace(&next, EventStatus::Submitted, 1).await.unwrap(), "a second time");
    transaction.commit().await.unwrap();

    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), Some(next));
    assert_eq!(store.find(foreign, event.id).await.unwrap(), None);
    assert_eq!(store.history(foreign, event.id).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_never_happened() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::open(&directory.path().join("events.db")).await.unwrap();
    let event = event();
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
        let mut transaction = store.begin().await.unwrap();
        transaction.insert(&event).await.unwrap();
        transaction.record(event.organization_id, event.id, &entry).await.unwrap();
        assert_eq!(
            store.find(event.organization_id, event.id).await.unwrap(),
            None,
            "seen before its commit"
        );
        if commit {
            transaction.commit().await.unwrap();
        } else {
            drop(transaction);
        }
        let expected = if commit { vec![entry.clone()] } else { Vec::new() };
        assert_eq!(store.history(event.organization_id, event.id).await.unwrap(), expected);
    }
}
