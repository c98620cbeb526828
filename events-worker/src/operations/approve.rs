//! `events.approve`.

use contract::events::{Approve, ChangeError, Event, EventRequest, HistoryAction};
use contract::{Answer, Context, Failure, HandleKeyed};

use super::{Change, Effect, Events};
use crate::domain::policy::Action;

impl HandleKeyed<Approve> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Answer, Failure<ChangeError>> {
        let change = Change {
            id: &request.id,
            action: Action::Approve,
            recorded_as: HistoryAction::Approved,
            apply: |event: &Event| Ok(Effect::Next(event.clone())),
        };
        self.write::<Approve>(cx, &change).await
    }
}
