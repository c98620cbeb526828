//! The claims of access tokens, and the rules that signer and verifier share.

use contract::auth::{OrganizationId, Role, SessionId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `iss` of every access token.
pub const ISSUER: &str = "eventboard";
/// `aud` of every access token.
pub const AUDIENCE: &str = "eventboard";
/// `typ` of every access token (RFC 9068).
pub const TOKEN_TYPE: &str = "at+jwt";
/// How long an access token is valid, in seconds.
pub const ACCESS_TOKEN_SECONDS: i64 = 15 * 60;
/// How far the clocks of two machines may differ, in seconds.
pub const LEEWAY: i64 = 5;

/// The claims of an access token (RFC 9068, without `client_id`: there is one client).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessClaims {
    /// Issuer.
    pub iss: String,
    /// Audience.
    pub aud: String,
    /// The user.
    pub sub: UserId,
    /// The organisation.
    pub org: OrganizationId,
    /// The role within it.
    pub role: Role,
    /// The session.
    pub sid: SessionId,
    /// The version of the user's tokens (ADR 15); older ones may have been revoked.
    #[serde(default)]
    pub ver: i64,
    /// The user's address.
    pub email: String,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Not before, Unix seconds.
    pub nbf: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
    /// The token's own id.
    pub jti: Uuid,
}
