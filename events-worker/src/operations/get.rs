//! `events.get`.

use contract::events::{Event, EventRequest, Get, GetError};
use contract::{Context, Failure, Handle};

use super::Events;

impl Handle<Get> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<Event, Failure<GetError>> {
        let event = self.visible(cx.principal()?, &request.id).await?;
        event.ok_or(Failure::Refused(GetError::NotFound))
    }
}
