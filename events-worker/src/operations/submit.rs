//! `events.submit`.

use contract::events::{ChangeError, Event, EventRequest, HistoryAction, Submit};
use contract::{Answer, Context, Failure, HandleKeyed};

use super::{Change, Effect, Events};
use crate::domain::policy::Action;

impl HandleKeyed<Submit> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Answer, Failure<ChangeError>> {
        let change = Change {
            id: &request.id,
            action: Action::Submit,
            recorded_as: HistoryAction::Submitted,
            apply: |event: &Event| Ok(Effect::Next(Event { rejection_reason: None, ..event.clone() })),
        };
        self.write::<Submit>(cx, &change).await
    }
}
