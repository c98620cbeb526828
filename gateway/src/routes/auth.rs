//! `/auth/*`.

use std::sync::Arc;

use axum::Router;
use contract::auth::{
    ChangePassword, EndSession, Invite, Login, Logout, LogoutAll, Me, Members, Refresh, Sessions, Signup,
    UpdateMember,
};

use super::operation;
use crate::state::AppState;

/// Every route of the auth service.
pub(crate) fn routes() -> Router<Arc<AppState>> {
    Router::new()
        .merge(operation::<Signup>())
        .merge(operation::<Login>())
        .merge(operation::<Refresh>())
        .merge(operation::<Logout>())
        .merge(operation::<LogoutAll>())
        .merge(operation::<Me>())
        .merge(operation::<ChangePassword>())
        .merge(operation::<Sessions>())
        .merge(operation::<EndSession>())
        .merge(operation::<Invite>())
        .merge(operation::<Members>())
        .merge(operation::<UpdateMember>())
}
