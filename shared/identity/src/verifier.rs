//! The one function that verifies a caller.

use std::sync::Arc;

use contract::auth::Role;
use contract::{Access, Principal, Problem, ProblemType, Repeat, Timestamp};
use jsonwebtoken::{Algorithm, Validation};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::claims::{ACCESS_TOKEN_SECONDS, AUDIENCE, AccessClaims, ISSUER, LEEWAY, TOKEN_TYPE};
use crate::public_keys::{KeySet, PublicKeys};
use crate::revocations::Revocations;

/// The longest accepted token, in bytes.
const MAX_TOKEN: usize = 4096;
/// Verified tokens kept, at about 200 bytes each.
const CACHED_TOKENS: usize = 10_000;

/// Why a token was not accepted. The client gets one sentence for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No key is known yet: nothing can be said about any token.
    #[error("no key is known yet")]
    NoKeys,
    /// It is not known yet which tokens are revoked.
    #[error("what is revoked is not known yet")]
    RevocationsUnknown,
    /// Not a JWT, or larger than 4 KiB.
    #[error("not a JWT")]
    Malformed,
    /// A header that could steer verification (`jku`, `jwk`, `x5u`, `crit` …), or another `typ` or `alg`.
    #[error("the token's header is not acceptable")]
    Header,
    /// Signed by a key that is not known.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature does not verify.
    #[error("the token's signature is wrong")]
    Signature,
    /// A claim is missing, of the wrong type or of the wrong value.
    #[error("the token's claims are not acceptable")]
    Claims,
    /// The token is too old or not valid yet.
    #[error("the token has expired or is not valid yet")]
    Time,
    /// The session was ended, or what the user may do has changed.
    #[error("the token is revoked")]
    Revoked,
}

/// Verifies access tokens against the known keys, remembering those it has verified.
#[derive(Debug)]
pub struct Verifier {
    keys: Arc<PublicKeys>,
    revocations: Arc<Revocations>,
    verified: Cache<[u8; 32], (u64, Principal)>,
}

impl Verifier {
    /// A verifier that trusts `keys`, but for what is among `revocations`.
    pub fn new(keys: Arc<PublicKeys>, revocations: Arc<Revocations>) -> Self {
        Self { keys, revocations, verified: Cache::new(CACHED_TOKENS) }
    }

    /// The keys this verifier trusts.
    pub fn keys(&self) -> &Arc<PublicKeys> {
        &self.keys
    }

    /// Whether tokens can be verified at all.
    pub fn is_ready(&self) -> bool {
        self.keys.are_known() && self.revocations.are_known()
    }

    /// Waits until tokens can be verified at all.
    pub async fn ready(&self) {
        self.keys.known().await;
        self.revocations.known().await;
    }

    /// Verifies the caller of an operation with these rules; public ones have none.
    ///
    /// # Errors
    /// 401 without a valid token, 403 for another role, 503 while no key is known, or while a privileged
    /// caller's token may have been revoked without our knowing.
    pub fn authorize(
        &self,
        access: Access,
        repeat: Repeat,
        authorization: Option<&str>,
        now: Timestamp,
        instant: Instant,
    ) -> Result<Option<Principal>, Problem> {
        if access == Access::Public {
            return Ok(None);
        }
        let value = authorization.ok_or_else(|| {
            Problem::new(ProblemType::Unauthenticated, "the header Authorization is missing")
        })?;
        let principal = self.verify_authorization(value, now).map_err(|error| {
            tracing::info!(%error, "refused a token");
            match error {
                TokenError::NoKeys | TokenError::RevocationsUnknown => {
                    Problem::new(ProblemType::Unavailable, "what verifies tokens is not known yet")
                }
                _ => Problem::new(ProblemType::Unauthenticated, "the access token is not valid"),
            }
        })?;
        if let Access::Role(role) = access
            && principal.role != role
        {
            return Err(Problem::new(
                ProblemType::Forbidden,
                format!("this needs the role {}", role.as_str()),
            ));
        }
        let privileged =
            matches!(access, Access::Role(_)) || (principal.role != Role::User && repeat != Repeat::Safe);
        if privileged && self.revocations.are_stale(instant) {
            let rule = "whether you may still do this cannot be seen at the moment";
            return Err(Problem::new(ProblemType::Unavailable, rule));
        }
        Ok(Some(principal))
    }

    /// Verifies the value of an `Authorization` header; a scheme other than `Bearer` is malformed.
    fn verify_authorization(&self, value: &str, now: Timestamp) -> Result<Principal, TokenError> {
        let (scheme, token) = value.split_once(' ').ok_or(TokenError::Malformed)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenError::Malformed);
        }
        self.verify_access(token.trim(), now)
    }

    /// Verifies an access token: header, key, signature, every claim, every time.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify_access(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let set = Arc::clone(&self.keys.current.borrow());
        if set.keys.is_empty() {
            return Err(TokenError::NoKeys);
        }
        if !self.revocations.are_known() {
            return Err(TokenError::RevocationsUnknown);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let principal = match self.verified.get(&digest) {
            Some((generation, principal)) if generation == set.generation => {
                let alive = now.unix_seconds() < principal.expires_at.unix_seconds() + LEEWAY;
                if alive { principal } else { return Err(TokenError::Time) }
            }
            _ => {
                let principal = self.verify_uncached(&set, token, now)?;
                self.verified.insert(digest, (set.generation, principal.clone()));
                principal
            }
        };
        if self.revocations.revoke(&principal) { Err(TokenError::Revoked) } else { Ok(principal) }
    }

    fn verify_uncached(&self, set: &KeySet, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let steering = header.jku.is_some()
            || header.jwk.is_some()
            || header.x5u.is_some()
            || header.x5c.is_some()
            || header.crit.is_some()
            || header.cty.is_some()
            || header.zip.is_some()
            || header.enc.is_some();
        if steering || header.alg != Algorithm::EdDSA || header.typ.as_deref() != Some(TOKEN_TYPE) {
            return Err(TokenError::Header);
        }
        let kid = header.kid.ok_or(TokenError::Header)?;
        let key = set.keys.get(&kid).ok_or(TokenError::UnknownKey)?;
        // Times and names are judged below, with the caller's clock and without the crate's defaults.
        let mut signature_only = Validation::new(Algorithm::EdDSA);
        signature_only.validate_exp = false;
        signature_only.validate_nbf = false;
        signature_only.validate_aud = false;
        signature_only.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<AccessClaims>(token, key, &signature_only)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
                _ => TokenError::Claims,
            })?
            .claims;
        judge(&claims, now)
    }
}

fn judge(claims: &AccessClaims, now: Timestamp) -> Result<Principal, TokenError> {
    if claims.iss != ISSUER || claims.aud != AUDIENCE {
        return Err(TokenError::Claims);
    }
    let seconds = now.unix_seconds();
    let lifetime = claims.exp.checked_sub(claims.iat).ok_or(TokenError::Time)?;
    let begun = claims.iat <= seconds + LEEWAY && claims.nbf <= seconds + LEEWAY;
    if !begun
        || seconds >= claims.exp.saturating_add(LEEWAY)
        || !(1..=ACCESS_TOKEN_SECONDS).contains(&lifetime)
    {
        return Err(TokenError::Time);
    }
    Ok(Principal {
        user_id: claims.sub,
        organization_id: claims.org,
        role: claims.role,
        session_id: claims.sid,
        token_version: claims.ver,
        expires_at: Timestamp::from_unix_millis(claims.exp.saturating_mul(1000)).ok_or(TokenError::Time)?,
    })
}
