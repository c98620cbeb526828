//! `/auth/*`.

use std::sync::Arc;

use axum::Router;
use shared::contract::auth::{Invite, Login, Logout, Me, Refresh, Signup};

use super::{Gateway, operation};

/// Every route of the auth service.
pub(crate) fn routes() -> Router<Arc<Gateway>> {
    Router::new()
        .merge(operation::<Signup>())
        .merge(operation::<Login>())
        .merge(operation::<Refresh>())
        .merge(operation::<Logout>())
        .merge(operation::<Me>())
        .merge(operation::<Invite>())
}
