//! `events.update`.

use contract::events::{Event, HistoryAction, Update, UpdateError, UpdateRequest};
use contract::{Answer, Context, Failure, HandleKeyed};

use super::{Change, Effect, Events};
use crate::domain::policy::Action;

impl HandleKeyed<Update> for Events {
    async fn handle(&self, cx: &Context, request: UpdateRequest) -> Result<Answer, Failure<UpdateError>> {
        let change = Change {
            id: &request.id,
            action: Action::Update,
            recorded_as: HistoryAction::Updated,
            apply: |event: &Event| {
                let merged = merge(event, &request);
                if merged.end_date <= merged.start_date {
                    return Err(UpdateError::EndsBeforeStart);
                }
                // An edit that changes nothing is no edit: it must not send an approved event back.
                Ok(if merged == *event { Effect::Same } else { Effect::Next(merged) })
            },
        };
        self.write::<Update>(cx, &change).await
    }
}

fn merge(event: &Event, request: &UpdateRequest) -> Event {
    let mut merged = event.clone();
    if let Some(title) = &request.title {
        merged.title.clone_from(title);
    }
    if let Some(description) = &request.description {
        merged.description.clone_from(description);
    }
    if let Some(location) = &request.location {
        merged.location.clone_from(location);
    }
    merged.start_date = request.start_date.unwrap_or(event.start_date);
    merged.end_date = request.end_date.unwrap_or(event.end_date);
    merged
}
