//! `events.approve`.

use shared::contract::events::{Approve, ChangeError, Event, EventRequest, HistoryAction};
use shared::contract::{Context, Failure, Handle};

use super::{Change, Events};
use crate::domain::policy::Action;

impl Handle<Approve> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Event, Failure<ChangeError>> {
        let approve = (Action::Approve, HistoryAction::Approved);
        self.change(cx, &request.id, approve, |event| Ok(Change::Becomes(event.clone()))).await
    }
}
