//! `events.withdraw`.

use shared::contract::events::{ChangeError, Event, EventRequest, HistoryAction, Withdraw};
use shared::contract::{Context, Failure, Handle};

use super::{Change, Events};
use crate::domain::policy::Action;

impl Handle<Withdraw> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Event, Failure<ChangeError>> {
        let withdraw = (Action::Withdraw, HistoryAction::Withdrawn);
        self.change(cx, &request.id, withdraw, |event| Ok(Change::Becomes(event.clone()))).await
    }
}
