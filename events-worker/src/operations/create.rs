//! `events.create`.

use std::convert::Infallible;

use contract::events::{Create, CreateRequest, Event, EventId, EventStatus, HistoryAction};
use contract::{Answer, Context, Failure, HandleKeyed};
use uuid::Uuid;

use super::{Attempt, Events, Mutation, record};
use crate::store::EventTransaction;

/// A new draft.
struct Creation(Event);

impl Mutation<Create> for Creation {
    async fn run(
        &self,
        cx: &Context,
        transaction: &mut dyn EventTransaction,
    ) -> Result<Event, Attempt<Infallible>> {
        let event = &self.0;
        if !transaction.insert(event).await? {
            return Err(Failure::internal(&"a new event id exists already").into());
        }
        let (actor, created) = (event.created_by_id, HistoryAction::Created);
        record(transaction, cx, actor, created, event, None, Some(event)).await?;
        Ok(event.clone())
    }

    fn log_success(&self, event: &Event) {
        tracing::info!(event_id = %event.id, "created event");
    }
}

impl HandleKeyed<Create> for Events {
    async fn handle(&self, cx: &Context, request: CreateRequest) -> Result<Answer, Failure<Infallible>> {
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
        self.write::<Create>(cx, &Creation(event)).await
    }
}
