//! `/events` and below.

use std::sync::Arc;

use axum::Router;
use contract::events::{Approve, Create, Delete, Get, History, List, Reject, Submit, Update, Withdraw};

use super::operation;
use crate::state::AppState;

/// Every route of the events service.
pub(crate) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .merge(operation::<Create>())
        .merge(operation::<List>())
        .merge(operation::<Get>())
        .merge(operation::<Update>())
        .merge(operation::<Delete>())
        .merge(operation::<Submit>())
        .merge(operation::<Withdraw>())
        .merge(operation::<Approve>())
        .merge(operation::<Reject>())
        .merge(operation::<History>())
}
