//! `events.withdraw`.

use contract::events::{ChangeError, Event, EventRequest, HistoryAction, Withdraw};
use contract::{Answer, Context, Failure, HandleKeyed};

use super::{Change, Effect, Events};
use crate::domain::policy::Action;

impl HandleKeyed<Withdraw> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Answer, Failure<ChangeError>> {
        let change = Change {
            id: &request.id,
            action: Action::Withdraw,
            recorded_as: HistoryAction::Withdrawn,
            apply: |event: &Event| Ok(Effect::Next(event.clone())),
        };
        self.write::<Withdraw>(cx, &change).await
    }
}
