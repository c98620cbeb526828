//! `events.history`.

use shared::contract::events::{ChangeError, EventRequest, History, HistoryError, HistoryPage};
use shared::contract::{Context, Failure, Handle};

use super::{Events, permitted};
use crate::domain::policy::Action;

impl Handle<History> for Events {
    async fn handle(
        &self,
        cx: &Context,
        request: EventRequest,
    ) -> Result<HistoryPage, Failure<HistoryError>> {
        let principal = cx.principal()?;
        let event = self.visible(principal, &request.id).await?;
        let event = event.ok_or(Failure::Refused(HistoryError::NotFound))?;
        if let Err(ChangeError::NotAllowed(why)) = permitted(principal, &event, Action::ViewHistory) {
            return Err(Failure::Refused(HistoryError::NotAllowed(why)));
        }
        Ok(HistoryPage { data: self.store.history(event.organization_id, event.id).await? })
    }
}
