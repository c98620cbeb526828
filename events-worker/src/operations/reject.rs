//! `events.reject`.

use shared::contract::events::{ChangeError, Event, HistoryAction, Reject, RejectRequest};
use shared::contract::{Context, Failure, Handle};

use super::{Change, Events};
use crate::domain::policy::Action;

impl Handle<Reject> for Events {
    async fn handle(&self, cx: &Context, request: RejectRequest) -> Result<Event, Failure<ChangeError>> {
        let reject = (Action::Reject, HistoryAction::Rejected);
        self.change(cx, &request.id, reject, |event| {
            Ok(Change::Becomes(Event { rejection_reason: Some(request.reason.clone()), ..event.clone() }))
        })
        .await
    }
}
