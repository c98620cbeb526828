//! The public keys that verify access tokens, as one process knows them.

use std::collections::HashMap;
use std::sync::Arc;

use contract::EntityTag;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// The keys that currently verify access tokens, as one process knows them.
#[derive(Debug)]
pub struct PublicKeys {
    pub(crate) current: watch::Sender<Arc<KeySet>>,
}

#[derive(Default)]
pub(crate) struct KeySet {
    pub(crate) generation: u64,
    document: String,
    tag: EntityTag,
    pub(crate) keys: HashMap<String, DecodingKey>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("kids", &self.keys.keys()).finish()
    }
}

/// Why a JWKS document was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not a JWKS document (RFC 7517).
    #[error("the document is no JWKS")]
    Malformed,
    /// No key of the kind tokens are signed with.
    #[error("the JWKS has no usable Ed25519 key")]
    NoUsableKey,
}

impl PublicKeys {
    /// No keys yet.
    pub fn unknown() -> Arc<Self> {
        Arc::new(Self { current: watch::Sender::new(Arc::default()) })
    }

    /// Takes over a JWKS document; the same document again changes nothing.
    ///
    /// # Errors
    /// [`KeySetError`]; the keys known before stay in force.
    pub fn replace(&self, document: &str) -> Result<(), KeySetError> {
        let known = Arc::clone(&self.current.borrow());
        if known.document == document {
            return Ok(());
        }
        let set: JwkSet = serde_json::from_str(document).map_err(|_| KeySetError::Malformed)?;
        let keys: HashMap<String, DecodingKey> = set
            .keys
            .iter()
            .filter(|jwk| jwk.common.key_algorithm == Some(jsonwebtoken::jwk::KeyAlgorithm::EdDSA))
            .filter_map(|jwk| Some((jwk.common.key_id.clone()?, DecodingKey::from_jwk(jwk).ok()?)))
            .collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        let [a, b, c, d, e, f, ..]: [u8; 32] = Sha256::digest(document).into();
        let tag = EntityTag(i64::from_be_bytes([0, 0, a, b, c, d, e, f]));
        let next = KeySet { generation: known.generation + 1, document: document.to_owned(), tag, keys };
        self.current.send_replace(Arc::new(next));
        Ok(())
    }

    /// Whether any key is known.
    pub fn are_known(&self) -> bool {
        !self.current.borrow().keys.is_empty()
    }

    /// Waits until a key is known.
    pub async fn known(&self) {
        let mut current = self.current.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = current.wait_for(|set| !set.keys.is_empty()).await;
    }

    /// The JWKS document; empty until a key is known.
    pub fn document(&self) -> String {
        self.current.borrow().document.clone()
    }

    /// The document's validator: the same for every process that has the same keys.
    pub fn document_tag(&self) -> EntityTag {
        self.current.borrow().tag
    }
}
