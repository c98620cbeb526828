//! Access tokens: their claims, the keys that verify them, what is revoked, and the one function that verifies a caller.

mod claims;
mod public_keys;
pub mod revocations;
mod verifier;

pub use claims::{ACCESS_TOKEN_SECONDS, AUDIENCE, AccessClaims, ISSUER, LEEWAY, TOKEN_TYPE};
pub use public_keys::{KeySetError, PublicKeys};
pub use verifier::{TokenError, Verifier};
