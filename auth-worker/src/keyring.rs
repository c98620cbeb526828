//! The keys that sign access tokens: which of them does at what time, and how they are kept.
//!
//! The configured key is the first one. Others are made by command and kept in the database, sealed by a key that
//! is derived from the configured one: what is stolen with the database signs nothing (ADR 15).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::Timestamp;
use identity::{ACCESS_TOKEN_SECONDS, LEEWAY};
use jsonwebtoken::EncodingKey;
use serde_json::json;
use sha2::{Digest, Sha256};
use strum::IntoStaticStr;

use crate::tokens::SigningKeyError;

/// How long a key verifies after its successor has begun to sign, in seconds: as long as its last token lives.
const RETIRING_SECONDS: i64 = ACCESS_TOKEN_SECONDS + 2 * LEEWAY;
/// Bytes of a nonce.
const NONCE: usize = 12;

/// A key pair of Ed25519.
pub(crate) struct SigningKey {
    /// RFC 7638: the key's own hash as its id.
    pub(crate) kid: String,
    pub(crate) encoding: EncodingKey,
    public_key: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads a key pair in PKCS#8.
    ///
    /// # Errors
    /// [`SigningKeyError::Malformed`].
    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, SigningKeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| SigningKeyError::Malformed)?;
        let public_key = pair.public_key().as_ref().to_vec();
        Ok(Self { kid: thumbprint(&public_key), encoding: EncodingKey::from_ed_der(der), public_key })
    }

    /// The public key as a JWK (RFC 7517); private members never get in.
    fn jwk(&self) -> serde_json::Value {
        json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "use": "sig",
            "alg": "EdDSA",
            "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(&self.public_key),
        })
    }
}

fn thumbprint(public_key: &[u8]) -> String {
    let x = URL_SAFE_NO_PAD.encode(public_key);
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)))
}

/// What the database holds of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKeyRecord {
    /// The key's id.
    pub kid: String,
    /// The key pair, sealed; `None` for the configured key, whose pair is not here.
    pub sealed: Option<Vec<u8>>,
    /// From when on it signs, until another one does.
    pub current_from: Timestamp,
    /// Since when nothing that it signed is accepted.
    pub revoked_at: Option<Timestamp>,
}

impl fmt::Debug for SigningKeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeyRecord").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum KeyState {
    /// Published, so that every verifier has it before it signs.
    Standby,
    /// Signs.
    Current,
    /// Verifies what it has signed.
    Retiring,
    /// Has nothing left to verify.
    Retired,
    /// Must not be trusted any more.
    Revoked,
}

impl KeyState {
    /// The state in a word.
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }

    fn is_published(self) -> bool {
        matches!(self, Self::Standby | Self::Current | Self::Retiring)
    }
}

/// When a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    from: Timestamp,
    revoked_at: Option<Timestamp>,
}

impl Validity {
    /// Whether the key has signed by `now`, whatever became of it.
    fn has_begun(self, now: Timestamp) -> bool {
        self.from <= now && self.revoked_at.is_none_or(|revoked| revoked > self.from)
    }
}

/// What a key with this `term` is used for at `now`, among `all` keys.
fn state(term: Validity, all: &[Validity], now: Timestamp) -> KeyState {
    if term.revoked_at.is_some() {
        return KeyState::Revoked;
    }
    if term.from > now {
        return KeyState::Standby;
    }
    let successors = all.iter().filter(|other| other.from > term.from && other.has_begun(now));
    let taken_over = successors.clone().any(|successor| successor.revoked_at.is_none());
    match successors.map(|successor| successor.from).min() {
        Some(from) if taken_over && now >= from.plus_seconds(RETIRING_SECONDS) => KeyState::Retired,
        Some(_) if taken_over => KeyState::Retiring,
        _ => KeyState::Current,
    }
}

/// Every key that can be used, the oldest first.
#[derive(Debug)]
pub(crate) struct Keyring {
    keys: Vec<(SigningKey, Validity)>,
}

impl Keyring {
    /// The configured key, and those of `records` that `seal` opens.
    pub(crate) fn open(
        configured: SigningKey,
        records: &[SigningKeyRecord],
        seal: &KeyWrapper,
    ) -> Result<Self, SigningKeyError> {
        let term =
            |record: &SigningKeyRecord| Validity { from: record.current_from, revoked_at: record.revoked_at };
        let own = records.iter().find(|record| record.kid == configured.kid).map(term);
        let mut keys =
            vec![(configured, own.unwrap_or(Validity { from: Timestamp::UNIX_EPOCH, revoked_at: None }))];
        for record in records {
            let Some(sealed) = &record.sealed else { continue };
            match seal.open(record.kid.as_bytes(), sealed) {
                Some(der) => keys.push((SigningKey::from_pkcs8(&der)?, term(record))),
                // The configured key is another one than when it was made.
                None => tracing::warn!(kid = record.kid, "a signing key cannot be opened and is not used"),
            }
        }
        keys.sort_by_key(|(_, term)| term.from);
        Ok(Self { keys })
    }

    fn terms(&self) -> Vec<Validity> {
        self.keys.iter().map(|(_, term)| *term).collect()
    }

    /// Every key with its state at `now`, and since when, or from when on, it signs.
    pub(crate) fn states(&self, now: Timestamp) -> Vec<(&SigningKey, KeyState, Timestamp)> {
        let terms = self.terms();
        self.keys.iter().map(|(key, term)| (key, state(*term, &terms, now), term.from)).collect()
    }

    /// The key to sign with at `now`: the current one, or, while its publication is held up, the former one, which
    /// every verifier has.
    pub(crate) fn signing(&self, now: Timestamp, is_known: impl Fn(&str) -> bool) -> Option<&SigningKey> {
        let states = self.states(now);
        let in_state = |wanted| {
            let keys = states.iter().rev().filter(move |(_, state, _)| *state == wanted);
            keys.map(|(key, ..)| *key)
        };
        let known = |key: &&SigningKey| is_known(&key.kid);
        let current = in_state(KeyState::Current).next();
        let former = || in_state(KeyState::Retiring).find(known);
        current.filter(known).or_else(former).or(current)
    }

    /// Every key that may be met at `now`.
    pub(crate) fn published(&self, now: Timestamp) -> impl Iterator<Item = &SigningKey> {
        let states = self.states(now).into_iter();
        states.filter(|(_, state, _)| state.is_published()).map(|(key, ..)| key)
    }

    /// The JWKS document (RFC 7517) with every key that may be met at `now`.
    pub(crate) fn jwks(&self, now: Timestamp) -> String {
        let keys: Vec<_> = self.published(now).map(SigningKey::jwk).collect();
        json!({ "keys": keys }).to_string()
    }
}

/// Seals key pairs for the database.
pub(crate) struct KeyWrapper(RandomizedNonceKey);

impl KeyWrapper {
    /// Seals with this key.
    ///
    /// # Errors
    /// [`SigningKeyError::Generate`].
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, SigningKeyError> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| SigningKeyError::Generate)
    }

    /// A new key pair, and its sealed form.
    pub(crate) fn generate(&self) -> Result<(SigningKey, Vec<u8>), SigningKeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| SigningKeyError::Generate)?;
        let key = SigningKey::from_pkcs8(document.as_ref())?;
        let sealed = self.close(key.kid.as_bytes(), document.as_ref()).ok_or(SigningKeyError::Generate)?;
        Ok((key, sealed))
    }

    /// Seals bytes that are found under `name`.
    pub(crate) fn close(&self, name: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = bytes.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        sealed.extend_from_slice(nonce.as_ref());
        Some(sealed)
    }

    /// What was sealed under this name.
    pub(crate) fn open(&self, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (sealed, nonce) = sealed.split_at_checked(sealed.len().checked_sub(NONCE)?)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let length = self.0.open_in_place(nonce, Aad::from(name), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_signs_verifies_and_retires() {
        let at = |seconds: i64| Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus_seconds(seconds);
        let alive = |from| Validity { from: at(from), revoked_at: None };
        let first = Validity { from: Timestamp::UNIX_EPOCH, revoked_at: None };
        // The last one was withdrawn before it signed.
        let all = [first, alive(100), alive(5000), Validity { revoked_at: Some(at(150)), ..alive(200) }];
        use KeyState::{Current, Retired, Retiring, Revoked, Standby};
        for (seconds, expected) in [
            (0, [Current, Standby, Standby, Revoked]),
            (99, [Current, Standby, Standby, Revoked]),
            (100, [Retiring, Current, Standby, Revoked]),
            (300, [Retiring, Current, Standby, Revoked]),
            (100 + RETIRING_SECONDS - 1, [Retiring, Current, Standby, Revoked]),
            (100 + RETIRING_SECONDS, [Retired, Current, Standby, Revoked]),
            (5000, [Retired, Retiring, Current, Revoked]),
            (9000, [Retired, Retired, Current, Revoked]),
        ] {
            let states = all.map(|term| state(term, &all, at(seconds)));
            assert_eq!(states, expected, "after {seconds} s");
        }
        // What retired long ago does not come back because its successor is withdrawn.
        let all = [first, Validity { revoked_at: Some(at(9000)), ..alive(100) }, alive(9000)];
        let states = all.map(|term| state(term, &all, at(9000)));
        assert_eq!(states, [Retired, Revoked, Current]);
    }

    #[test]
    fn a_key_that_nobody_knows_yet_does_not_sign_where_another_can() {
        let (seal, now) =
            (KeyWrapper::new(&[7; 32]).unwrap(), Timestamp::parse("2026-01-01T00:00:00Z").unwrap());
        let (configured, _) = seal.generate().unwrap();
        let (first, (key, sealed)) = (configured.kid.clone(), seal.generate().unwrap());
        let second = key.kid.clone();
        let current_from = now.plus_seconds(-60);
        let record = SigningKeyRecord { kid: key.kid, sealed: Some(sealed), current_from, revoked_at: None };
        let ring = Keyring::open(configured, &[record], &seal).unwrap();
        let signing = |known: &[&String]| {
            ring.signing(now, |kid| known.iter().any(|known| *known == kid)).unwrap().kid.clone()
        };
        assert_eq!(signing(&[&first, &second]), second);
        assert_eq!(signing(&[&first]), first);
        assert_eq!(signing(&[]), second);
    }

    #[test]
    fn sealed_keys_open_with_their_own_seal_and_id_only() {
        let seal = KeyWrapper::new(&[7; 32]).unwrap();
        let (key, sealed) = seal.generate().unwrap();
        let opened = seal.open(key.kid.as_bytes(), &sealed).unwrap();
        assert_eq!(SigningKey::from_pkcs8(&opened).unwrap().kid, key.kid);
        let mut damaged = sealed.clone();
        damaged[3] ^= 1;
        assert_eq!(seal.open(key.kid.as_bytes(), &damaged), None);
        assert_eq!(seal.open(b"another", &sealed), None);
        assert_eq!(KeyWrapper::new(&[8; 32]).unwrap().open(key.kid.as_bytes(), &sealed), None);
        for short in [0, 5, NONCE, NONCE + 3] {
            assert_eq!(seal.open(key.kid.as_bytes(), &sealed[..short]), None);
        }
    }

    #[test]
    fn the_document_holds_what_may_be_met() {
        let seal = KeyWrapper::new(&[7; 32]).unwrap();
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let (configured, _) = seal.generate().unwrap();
        let mut records = Vec::new();
        for (from, revoked_at) in [(-2000, None), (60, None), (-10, Some(now))] {
            let (key, sealed) = seal.generate().unwrap();
            let current_from = now.plus_seconds(from);
            records.push(SigningKeyRecord { kid: key.kid, sealed: Some(sealed), current_from, revoked_at });
        }
        let (_, foreign) = KeyWrapper::new(&[9; 32]).unwrap().generate().unwrap();
        records.push(SigningKeyRecord {
            sealed: Some(foreign),
            kid: "foreign".to_owned(),
            ..records[0].clone()
        });
        let ring = Keyring::open(configured, &records, &seal).unwrap();
        assert_eq!(ring.signing(now, |_| true).unwrap().kid, records[0].kid);
        let document = ring.jwks(now);
        let published: Vec<bool> = records.iter().map(|record| document.contains(&record.kid)).collect();
        assert_eq!(published, [true, true, false, false], "{document}");
        assert!(!document.contains("\"d\""));
    }
}
