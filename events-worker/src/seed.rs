//! The demo events.

use std::time::Duration;

use contract::Timestamp;
use contract::events::{Event, EventId, EventStatus, HistoryAction, HistoryEntry};
use database::StoreError;
use service::demo;
use tokio::time::Instant;
use uuid::Uuid;

use crate::store::EventStore;

/// How long the database may take to store the demo data.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Writes what is missing of the demo data; what is there, however changed, stays.
pub(crate) async fn seed(store: &dyn EventStore) -> Result<(), StoreError> {
    let (now, deadline) = (Timestamp::now(), Instant::now() + TIMEOUT);
    for demo in &demo::EVENTS {
        let date = |text| Timestamp::parse(text).ok_or(StoreError::UnknownValue("demo date"));
        let event = Event {
            id: EventId(Uuid::from_u128(demo.number)),
            title: demo.title.to_owned(),
            description: demo.description.to_owned(),
            location: Some(demo.location.to_owned()),
            start_date: date(demo.start_date)?,
            end_date: date(demo.end_date)?,
            status: demo.status,
            rejection_reason: None,
            organization_id: demo.creator.organization,
            created_by_id: demo.creator.id,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let mut transaction = store.begin(event.organization_id, deadline).await?;
        if transaction.insert(&event).await? {
            for (action, from, to) in steps(demo.status) {
                let entry = HistoryEntry {
                    at: now,
                    actor: event.created_by_id,
                    action,
                    from,
                    to: Some(to),
                    reason: None,
                    correlation_id: "demo-data".to_owned(),
                };
                transaction.record(event.organization_id, event.id, &entry).await?;
            }
            transaction.commit().await?;
        }
    }
    Ok(())
}

/// The history that leads to `status`.
fn steps(status: EventStatus) -> Vec<(HistoryAction, Option<EventStatus>, EventStatus)> {
    use EventStatus::{Approved, Draft, Rejected, Submitted};
    let mut steps = vec![(HistoryAction::Created, None, Draft)];
    if status != Draft {
        steps.push((HistoryAction::Submitted, Some(Draft), Submitted));
    }
    match status {
        Draft | Submitted => {}
        Approved => steps.push((HistoryAction::Approved, Some(Submitted), Approved)),
        Rejected => steps.push((HistoryAction::Rejected, Some(Submitted), Rejected)),
    }
    steps
}
