//! What every route needs.

use contract::ClientNetwork;
use contract::auth::UserId;
use identity::Verifier;
use tokio::time::Instant;

use crate::rate_limit::Limiter;
use crate::upstream::Upstream;

/// What every route needs.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) upstream: Upstream,
    pub(crate) verifier: Verifier,
    /// Until when requests wait for what verifies tokens, since the gateway has only just started.
    pub(crate) hold_until: Instant,
    /// Requests by user.
    pub(crate) users: Limiter<UserId>,
    /// Requests by address.
    pub(crate) addresses: Limiter<ClientNetwork>,
    /// Proxies that append their client's address.
    pub(crate) trusted_hops: usize,
}
