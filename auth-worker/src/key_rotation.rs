//! The signing keys as the database has them: taken over and published again and again, and changed by command.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use contract::Timestamp;
use identity::PublicKeys;
use messaging::KeyDirectory;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::keyring::{KeyState, SigningKeyRecord};
use crate::store::AuthStore;
use crate::tokens::TokenIssuer;

/// Between two looks at the database.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often while the keys are not published yet.
const INTERVAL_WHILE_UNPUBLISHED: Duration = Duration::from_millis(100);
/// How long the database may take over one.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// The shortest time, in seconds, between publishing a key and signing with it: every process of ours has looked
/// by then.
const SHORTEST_STANDBY: i64 = 5;

/// Signing keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeysCommand {
    /// List the keys, with what each is used for
    List,
    /// Make a new key, publish it, and sign with it after a while
    Rotate {
        /// Seconds until it signs: others may keep the published keys for a minute
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(SHORTEST_STANDBY..=86_400))]
        after: i64,
    },
    /// Withdraw a key at once: nothing that it signed is accepted any more
    Revoke {
        /// The key's id
        // A thumbprint in base64url may begin with a hyphen.
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

/// Takes over the keys of the database, and publishes them, again and again. Notifies `published` each time they are
/// there.
pub(crate) async fn keep_published(
    store: &AuthStore,
    issuer: &TokenIssuer,
    keys: &PublicKeys,
    directory: &KeyDirectory,
    published: &Notify,
) -> ! {
    let mut known = None;
    let mut complained = false;
    let mut interval = INTERVAL_WHILE_UNPUBLISHED;
    loop {
        let look = async {
            // A link that was cut without a word would never say so.
            let records = tokio::time::timeout(LOOK_TIMEOUT, store.signing_keys()).await??;
            if known.as_ref() != Some(&records) {
                issuer.use_keys(&records)?;
                known = Some(records);
            }
            let document = issuer.jwks(Timestamp::now());
            keys.replace(&document)?;
            // Only after a look that succeeded: who does not know what is withdrawn must not publish it again.
            directory.publish(&document).await?;
            issuer.note_published(Instant::now());
            Ok::<_, anyhow::Error>(())
        };
        match look.await {
            Ok(()) => {
                published.notify_one();
                (interval, complained) = (INTERVAL, false);
            }
            Err(error) if !complained => {
                tracing::warn!(%error, "cannot publish the public keys; has `eventboard provision` run?");
                complained = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(interval).await;
    }
}

/// Carries a command out, and returns what to print.
///
/// # Errors
/// What cannot be done, and a database that fails.
pub(crate) async fn run(
    command: KeysCommand,
    store: &AuthStore,
    issuer: &TokenIssuer,
) -> anyhow::Result<String> {
    let now = Timestamp::now();
    let records = store.signing_keys().await?;
    issuer.use_keys(&records)?;
    let (ring, seal) = (issuer.ring(), issuer.seal()?);
    let states: Vec<(String, KeyState, Timestamp)> =
        ring.states(now).into_iter().map(|(key, state, from)| (key.kid.clone(), state, from)).collect();
    let add = async |current_from: Timestamp| {
        let (key, sealed) = seal.generate()?;
        let record = SigningKeyRecord { kid: key.kid, sealed: Some(sealed), current_from, revoked_at: None };
        store.add_signing_key(&record, now).await?;
        Ok::<_, anyhow::Error>(record.kid)
    };
    match command {
        KeysCommand::List => {
            let line = |(kid, state, from): &(String, KeyState, Timestamp)| {
                format!("{kid}  {:<8}  signs from {from}\n", state.as_str())
            };
            Ok(states.iter().map(line).collect())
        }
        KeysCommand::Rotate { after } => {
            if let Some((kid, _, from)) = states.iter().find(|(_, state, _)| *state == KeyState::Standby) {
                bail!("the key {kid} is waiting already; it signs from {from}");
            }
            for (kid, ..) in states.iter().filter(|(_, state, _)| *state == KeyState::Retired) {
                store.remove_signing_key(kid).await?;
            }
            let from = now.plus_seconds(after);
            let kid = add(from).await?;
            Ok(format!("{kid} is published, and signs from {from}\n"))
        }
        KeysCommand::Revoke { kid } => {
            let (_, state, from) =
                states.iter().find(|(known, ..)| *known == kid).context("there is no such key")?;
            ensure!(*state != KeyState::Revoked, "the key {kid} is revoked already");
            let mut said = String::new();
            if *state == KeyState::Current {
                // No verifier has it yet: what it signs is refused until each has looked.
                said = format!("{} signs from now on\n", add(now).await?);
            }
            store.revoke_signing_key(&kid, *from, now).await?;
            if kid == issuer.configured_kid()? {
                said.push_str(
                    "it is the configured key, from which refresh tokens and the seals of the others are derived: \
                     if it was stolen, replace EVENTBOARD_SIGNING_KEY as well, which signs every user out\n",
                );
            }
            Ok(format!("{kid} is revoked; its tokens are refused within seconds\n{said}"))
        }
    }
}
