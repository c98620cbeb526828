//! `events.submit`.

use shared::contract::events::{ChangeError, Event, EventRequest, HistoryAction, Submit};
use shared::contract::{Context, Failure, Handle};

use super::{Change, Events};
use crate::domain::policy::Action;

impl Handle<Submit> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Event, Failure<ChangeError>> {
        let submit = (Action::Submit, HistoryAction::Submitted);
        self.change(cx, &request.id, submit, |event| {
            Ok(Change::Becomes(Event { rejection_reason: None, ..event.clone() }))
        })
        .await
    }
}
