//! `events.delete`.

use shared::contract::events::{ChangeError, Delete, EventRequest, HistoryAction};
use shared::contract::{Context, Failure, Handle, NoContent};

use super::{Change, Events};
use crate::domain::policy::Action;

impl Handle<Delete> for Events {
    async fn handle(&self, cx: &Context, request: EventRequest) -> Result<NoContent, Failure<ChangeError>> {
        let delete = (Action::Delete, HistoryAction::Deleted);
        self.change(cx, &request.id, delete, |_| Ok(Change::Vanishes)).await?;
        Ok(NoContent {})
    }
}
