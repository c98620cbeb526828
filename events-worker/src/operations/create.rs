//! `events.create`.

use std::convert::Infallible;

use shared::contract::events::{Create, CreateRequest, Event, EventId, EventStatus, HistoryAction};
use shared::contract::{Context, Failure, Handle};
use uuid::Uuid;

use super::{Events, attempt, record};

impl Handle<Create> for Events {
    async fn handle(&self, cx: &Context, request: CreateRequest) -> Result<Event, Failure<Infallible>> {
        let principal = cx.principal()?;
        let event = Event {
            id: EventId(Uuid::now_v7()),
            title: request.title,
            description: request.description,
            location: request.location,
            start_date: request.start_date,
            end_date: request.end_date,
            status: EventStatus::Draft,
            rejection_reason: None,
            organization_id: principal.organization_id,
            created_by_id: principal.user_id,
            created_at: cx.now,
            updated_at: cx.now,
            version: 1,
        };
        let event = &event;
        attempt(|| async move {
            let mut transaction = self.store.begin(cx.deadline).await?;
            if !transaction.insert(event).await? {
                return Err(Failure::internal(&"a new event id exists already").into());
            }
            let (actor, created) = (principal.user_id, HistoryAction::Created);
            record(&mut *transaction, cx, actor, created, event, None, Some(event)).await?;
            Ok(transaction.commit().await?)
        })
        .await?;
        tracing::info!(event_id = %event.id, "created event");
        Ok(event.clone())
    }
}
