//! `events.list`.

use contract::auth::Role;
use contract::events::{EventPage, List, ListError, ListRequest, PageMeta};
use contract::page::fit;
use contract::{Context, Failure, Handle};

use super::Events;
use crate::store::{Cursor, ListQuery, PageBegin};

impl Handle<List> for Events {
    async fn handle(&self, cx: &Context, request: ListRequest) -> Result<EventPage, Failure<ListError>> {
        let principal = cx.principal()?;
        let (sort_by, sort_order) =
            (request.sort_by.unwrap_or_default(), request.sort_order.unwrap_or_default());
        let limit = request.limit.unwrap_or(ListRequest::DEFAULT_LIMIT);
        let (begin, page) = match &request.cursor {
            Some(text) => {
                let cursor = Cursor::decode(text, sort_by, sort_order);
                (PageBegin::After(cursor.ok_or(Failure::Refused(ListError::InvalidCursor))?), None)
            }
            None => {
                let page = request.page.unwrap_or(1);
                (PageBegin::Skip((page - 1) * limit), Some(page))
            }
        };
        let query = ListQuery {
            organization: principal.organization_id,
            only_visible_to: match principal.role {
                Role::User => Some(principal.user_id),
                Role::Moderator | Role::Admin => None,
            },
            status: request.status,
            search: request.search,
            start_date_from: request.start_date_from,
            start_date_to: request.start_date_to,
            sort_by,
            sort_order,
            limit,
            begin,
        };
        let mut listing = self.store.list(&query, cx.deadline).await?;
        let shrinks = fit(&mut listing.events, cx.max_reply);
        if shrinks && request.page.is_some() {
            return Err(Failure::Refused(ListError::PageTooLarge));
        }
        listing.has_next |= shrinks;
        // It has no number: the next one does not begin where the next number says.
        let page = page.filter(|_| !shrinks);
        let last = listing.events.last().filter(|_| listing.has_next);
        let meta = PageMeta {
            page,
            limit,
            total: listing.total,
            total_pages: (listing.total + limit - 1) / limit,
            has_previous: request.cursor.is_some() || page.is_some_and(|page| page > 1),
            has_next: listing.has_next,
            next_cursor: last.map(|event| Cursor::after(event, sort_by, sort_order).encode()),
        };
        Ok(EventPage { data: listing.events, meta })
    }
}
