//! `events.history`.

use contract::events::{ChangeError, History, HistoryError, HistoryPage, HistoryRequest, PlacedEntry};
use contract::page::page;
use contract::{Context, Failure, Handle};

use super::{Events, permitted};
use crate::domain::policy::Action;

impl Handle<History> for Events {
    async fn handle(
        &self,
        cx: &Context,
        request: HistoryRequest,
    ) -> Result<HistoryPage, Failure<HistoryError>> {
        let principal = cx.principal()?;
        let event = self.visible(principal, &request.id).await?;
        let event = event.ok_or(Failure::Refused(HistoryError::NotFound))?;
        if let Err(ChangeError::NotAllowed(why)) = permitted(principal, &event, Action::ViewHistory) {
            return Err(Failure::Refused(HistoryError::NotAllowed(why)));
        }
        let after = request.after().map_err(Failure::Refused)?;
        let limit = request.limit.unwrap_or(HistoryRequest::DEFAULT_LIMIT);
        let found = self.store.history(event.organization_id, event.id, after, limit + 1).await?;
        let (placed, meta) = page(found, limit, cx.max_reply, PlacedEntry::cursor);
        Ok(HistoryPage { data: placed.into_iter().map(|placed| placed.entry).collect(), meta })
    }
}
