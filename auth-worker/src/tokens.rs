//! Signs access tokens, derives refresh tokens, and shows the public keys.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use contract::Timestamp;
use contract::auth::{Secret, SessionId};
use identity::{ACCESS_TOKEN_SECONDS, AUDIENCE, AccessClaims, ISSUER, TOKEN_TYPE};
use jsonwebtoken::{Algorithm, Header};
use parking_lot::RwLock;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tokio::time::Instant;
use uuid::Uuid;

use crate::keyring::{KeyWrapper, Keyring, SigningKey, SigningKeyRecord};
use crate::store::SessionUser;

/// How long after its publication every verifier has learned of a key, which looks every second.
const LEARNED_AFTER: Duration = Duration::from_secs(3);

/// The fewest different bytes in a seed of 32 that was made at random.
const MIN_DIFFERENT_BYTES: usize = 12;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// Session id, counter, MAC.
const REFRESH_TOKEN: usize = 16 + 4 + 32;

/// The keys that sign, and what is derived from the configured one.
pub struct TokenIssuer {
    /// The configured key pair, in PKCS#8.
    configured: SecretSlice<u8>,
    secret: hmac::Key,
    refresh: hmac::Key,
    ring: RwLock<Arc<Keyring>>,
    /// Since when each key has been published: verifiers need a moment to learn of it.
    published: RwLock<HashMap<String, Instant>>,
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer").finish_non_exhaustive()
    }
}

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The text is no PKCS#8 PEM with an Ed25519 key.
    #[error("EVENTBOARD_SIGNING_KEY must be an Ed25519 private key in PKCS#8 PEM form")]
    Malformed,
    /// The key file cannot be read or written.
    #[error("cannot use the signing key file {0}: {1}")]
    File(String, #[source] std::io::Error),
    /// The machine has no randomness to give.
    #[error("cannot generate a signing key")]
    Generate,
    /// Every key is revoked, or does not sign yet.
    #[error("no key may sign at the moment")]
    NoCurrentKey,
    /// An access token could not be signed.
    #[error("cannot sign: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// A refresh token that was issued by us, whether or not it is still the session's newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session.
    pub session_id: SessionId,
    /// How many tokens of the session came before.
    pub counter: u32,
}

impl TokenIssuer {
    /// Reads the key from PEM text.
    ///
    /// # Errors
    /// [`SigningKeyError::Malformed`].
    pub fn from_pem(pem: &SecretString) -> Result<Self, SigningKeyError> {
        let body = pem
            .expose_secret()
            .trim()
            .strip_prefix(PEM_BEGIN)
            .and_then(|rest| rest.strip_suffix(PEM_END))
            .ok_or(SigningKeyError::Malformed)?;
        let base64: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(base64).map_err(|_| SigningKeyError::Malformed)?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| SigningKeyError::Malformed)?;
        let seed = pair.seed().and_then(|seed| seed.as_be_bytes()).map_err(|_| SigningKeyError::Malformed)?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, seed.as_ref());
        let ring = Keyring::open(SigningKey::from_pkcs8(&der)?, &[], &seal(&secret)?)?;
        Ok(Self {
            configured: SecretSlice::from(der),
            refresh: hmac::Key::new(hmac::HMAC_SHA256, &derived(&secret, "refresh tokens v1")),
            secret,
            ring: RwLock::new(Arc::new(ring)),
            published: RwLock::default(),
        })
    }

    /// Reads the key from `path`, generating it there first when there is none.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub fn from_file_or_generate(path: &Path) -> Result<Self, SigningKeyError> {
        let failed = |error| SigningKeyError::File(path.display().to_string(), error);
        if !path.exists() {
            let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
                .map_err(|_| SigningKeyError::Generate)?;
            let pem = format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(document.as_ref()));
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Self::from_pem(&SecretString::from(std::fs::read_to_string(path).map_err(failed)?))
    }

    /// Whether both have the same configured key.
    pub(crate) fn has_same_key(&self, other: &Self) -> bool {
        self.configured_kid().ok().zip(other.configured_kid().ok()).is_some_and(|(own, other)| own == other)
    }

    /// Whether the configured key's seed follows a pattern that no source of randomness would give: few different
    /// bytes, or the same step from each to the next. One in 10^20 random seeds looks like that.
    pub(crate) fn has_weak_seed(&self) -> bool {
        let pair = Ed25519KeyPair::from_pkcs8(self.configured.expose_secret()).ok();
        let seed = pair.and_then(|pair| pair.seed().and_then(|seed| seed.as_be_bytes()).ok());
        seed.is_none_or(|seed| {
            let seed = seed.as_ref();
            let different = |bytes: &[u8]| bytes.iter().collect::<HashSet<_>>().len();
            let steps: Vec<u8> = seed.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
            different(seed) < MIN_DIFFERENT_BYTES || different(&steps) < MIN_DIFFERENT_BYTES
        })
    }

    /// A key for `purpose`, the same for every worker that has the same signing key.
    pub fn derived_key(&self, purpose: &str) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &derived(&self.secret, purpose))
    }

    /// Uses these keys besides the configured one from now on.
    ///
    /// # Errors
    /// [`SigningKeyError`]; the keys known before stay in use.
    pub fn use_keys(&self, records: &[SigningKeyRecord]) -> Result<(), SigningKeyError> {
        let configured = SigningKey::from_pkcs8(self.configured.expose_secret())?;
        let ring = Keyring::open(configured, records, &self.seal()?)?;
        *self.ring.write() = Arc::new(ring);
        Ok(())
    }

    /// Notes that every key which may be met is published.
    pub(crate) fn note_published(&self, now: Instant) {
        let ring = self.ring();
        let mut published = self.published.write();
        let kids: Vec<String> = ring.published(Timestamp::now()).map(|key| key.kid.clone()).collect();
        published.retain(|kid, _| kids.contains(kid));
        for kid in kids {
            published.entry(kid).or_insert(now);
        }
    }

    /// Whether every verifier that is not cut off knows this key.
    fn is_known(&self, kid: &str) -> bool {
        let published = self.published.read();
        published.get(kid).is_some_and(|since| since.elapsed() >= LEARNED_AFTER)
    }

    /// The id of the configured key.
    pub(crate) fn configured_kid(&self) -> Result<String, SigningKeyError> {
        Ok(SigningKey::from_pkcs8(self.configured.expose_secret())?.kid)
    }

    pub(crate) fn seal(&self) -> Result<KeyWrapper, SigningKeyError> {
        seal(&self.secret)
    }

    pub(crate) fn ring(&self) -> Arc<Keyring> {
        Arc::clone(&self.ring.read())
    }

    /// The JWKS document (RFC 7517) with every key that may be met at `now`.
    pub fn jwks(&self, now: Timestamp) -> String {
        self.ring().jwks(now)
    }

    /// Signs an access token for the owner of `session`.
    ///
    /// # Errors
    /// [`SigningKeyError::NoCurrentKey`] and [`SigningKeyError::Sign`].
    pub fn access_token(
        &self,
        owner: &SessionUser,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Secret, SigningKeyError> {
        let ring = self.ring();
        let key = ring.signing(now, |kid| self.is_known(kid)).ok_or(SigningKeyError::NoCurrentKey)?;
        let header = Header {
            typ: Some(TOKEN_TYPE.to_owned()),
            kid: Some(key.kid.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        let user = &owner.user;
        let claims = AccessClaims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.id,
            org: user.organization_id,
            role: user.role,
            sid: session,
            ver: owner.token_version,
            email: user.email.as_str().to_owned(),
            iat: now.unix_seconds(),
            nbf: now.unix_seconds(),
            exp: now.unix_seconds() + ACCESS_TOKEN_SECONDS,
            jti: Uuid::now_v7(),
        };
        Ok(Secret::new(jsonwebtoken::encode(&header, &claims, &key.encoding)?))
    }

    /// The one refresh token of (session, counter): deriving it again gives the same.
    pub fn refresh_token(&self, token: RefreshToken) -> Secret {
        let mut bytes = Vec::with_capacity(REFRESH_TOKEN);
        bytes.extend_from_slice(token.session_id.0.as_bytes());
        bytes.extend_from_slice(&token.counter.to_be_bytes());
        let mac = hmac::sign(&self.refresh, &bytes);
        bytes.extend_from_slice(mac.as_ref());
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a refresh token; `None` when we did not issue it.
    pub fn read_refresh_token(&self, text: &Secret) -> Option<RefreshToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text.expose()).ok()?;
        let (message, mac) = bytes.split_at_checked(20)?;
        hmac::verify(&self.refresh, message, mac).ok()?;
        let (session, counter) = message.split_at_checked(16)?;
        Some(RefreshToken {
            session_id: SessionId(Uuid::from_slice(session).ok()?),
            counter: u32::from_be_bytes(counter.try_into().ok()?),
        })
    }
}

/// What seals the key pairs in the database.
fn seal(secret: &hmac::Key) -> Result<KeyWrapper, SigningKeyError> {
    KeyWrapper::new(&derived(secret, "signing keys v1"))
}

/// A key of its own for each purpose, so that no output of one says anything about the other.
fn derived(secret: &hmac::Key, purpose: &str) -> [u8; 32] {
    let tag = hmac::sign(secret, format!("eventboard {purpose}").as_bytes());
    let mut key = [0; 32];
    key.copy_from_slice(tag.as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::auth::{Email, OrganizationId, Role, User, UserId};
    use identity::revocations::Revocations;
    use identity::{PublicKeys, Verifier};
    use proptest::prelude::*;

    #[test]
    fn the_key_file_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing-key.pem");
        let first = TokenIssuer::from_file_or_generate(&path).unwrap();
        let second = TokenIssuer::from_file_or_generate(&path).unwrap();
        let now = Timestamp::now();
        assert_eq!(first.jwks(now), second.jwks(now));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!first.jwks(now).contains("\"d\""));
    }

    #[test]
    fn openssl_keys_are_read_and_others_refused() {
        // RFC 8410 §10.3, the example without a public key.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let issuer = TokenIssuer::from_pem(&SecretString::from(pem.to_owned())).unwrap();
        let document = issuer.jwks(Timestamp::now());
        assert!(document.contains("Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE"), "{document}");
        for bad in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"] {
            assert!(TokenIssuer::from_pem(&SecretString::from(bad.to_owned())).is_err(), "{bad}");
        }
    }

    #[test]
    fn refresh_tokens_are_derived_and_cannot_be_made_up() {
        let directory = tempfile::tempdir().unwrap();
        let issuer = TokenIssuer::from_file_or_generate(&directory.path().join("k")).unwrap();
        let token = RefreshToken { session_id: SessionId(Uuid::now_v7()), counter: 7 };
        let text = issuer.refresh_token(token);
        assert_eq!(issuer.read_refresh_token(&text), Some(token));
        let mut forged = URL_SAFE_NO_PAD.decode(text.expose()).unwrap();
        forged[19] ^= 1;
        assert_eq!(issuer.read_refresh_token(&Secret::new(URL_SAFE_NO_PAD.encode(forged))), None);
        assert_eq!(issuer.read_refresh_token(&Secret::new("x".into())), None);
    }

    fn issuer() -> TokenIssuer {
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        TokenIssuer::from_pem(&SecretString::from(pem.to_owned())).unwrap()
    }

    /// A verifier of what `issuer` signs, that knows of nothing revoked.
    fn verifier(issuer: &TokenIssuer, now: Timestamp) -> Verifier {
        let (keys, revocations) = (PublicKeys::unknown(), Revocations::unknown());
        keys.replace(&issuer.jwks(now)).unwrap();
        revocations.note_look(Instant::now(), now);
        Verifier::new(keys, revocations)
    }

    fn token(issuer: &TokenIssuer, now: Timestamp) -> String {
        let user = User {
            id: UserId(Uuid::from_u128(1)),
            email: Email::parse("ada@example.com").unwrap(),
            first_name: "Ada".to_owned(),
            last_name: "Person".to_owned(),
            role: Role::User,
            organization_id: OrganizationId(Uuid::from_u128(2)),
            created_at: now,
            updated_at: now,
        };
        let owner = SessionUser { user, token_version: 3 };
        issuer.access_token(&owner, SessionId(Uuid::from_u128(4)), now).unwrap().expose().to_owned()
    }

    proptest! {
        /// Another character anywhere, a part missing, another order: never accepted, never a panic.
        #[test]
        fn damaged_tokens_are_refused(at: prop::sample::Index, with in "[A-Za-z0-9_.=-]|\\PC", how in 0_u8..4) {
            let (issuer, now) = (issuer(), Timestamp::parse("2026-01-01T00:00:00Z").unwrap());
            let verifier = verifier(&issuer, now);
            let whole = token(&issuer, now);
            prop_assert_eq!(verifier.verify_access(&whole, now).unwrap().token_version, 3);
            let at = at.index(whole.len());
            let damaged = match how {
                0 => format!("{}{with}{}", &whole[..at], &whole[at + 1..]),
                1 => format!("{}{with}{}", &whole[..at], &whole[at..]),
                2 => whole[..at].to_owned(),
                _ => format!("{}{}", &whole[at..], &whole[..at]),
            };
            // The last character of a part has bits that mean nothing; strict base64 refuses them.
            prop_assert_eq!(verifier.verify_access(&damaged, now).is_ok(), damaged == whole);
        }

        #[test]
        fn any_text_is_no_token(text in "\\PC{0,80}|[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,90}") {
            let (issuer, now) = (issuer(), Timestamp::parse("2026-01-01T00:00:00Z").unwrap());
            prop_assert!(verifier(&issuer, now).verify_access(&text, now).is_err());
            prop_assert_eq!(issuer.read_refresh_token(&Secret::new(text)), None);
        }
    }
}
