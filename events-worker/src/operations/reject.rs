//! `events.reject`.

use contract::events::{ChangeError, Event, HistoryAction, Reject, RejectRequest};
use contract::{Answer, Context, Failure, HandleKeyed};

use super::{Change, Effect, Events};
use crate::domain::policy::Action;

impl HandleKeyed<Reject> for Events {
    async fn handle(&self, cx: &Context, request: RejectRequest) -> Result<Answer, Failure<ChangeError>> {
        let reason = &request.reason;
        let change = Change {
            id: &request.id,
            action: Action::Reject,
            recorded_as: HistoryAction::Rejected,
            apply: |event: &Event| {
                Ok(Effect::Next(Event { rejection_reason: Some(reason.clone()), ..event.clone() }))
            },
        };
        self.write::<Reject>(cx, &change).await
    }
}
