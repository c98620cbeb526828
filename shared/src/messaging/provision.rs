//! Creates what EventBoard keeps in JetStream, and refuses streams that would answer its requests.

use std::time::Duration;

use async_nats::jetstream::context::{CreateKeyValueError, GetStreamByNameErrorKind};
use async_nats::jetstream::{self, kv, stream};

use super::Connection;
use crate::contract::{auth, events};

/// The bucket with the public keys.
pub(super) const KEYS_BUCKET: &str = "public-keys";

/// Requests to JetStream are answered at once or not at all.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// Why JetStream is not in the state EventBoard needs.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A stream covers command subjects: it would answer requests with acknowledgements.
    #[error(
        "the stream {stream} covers {subject}: it would answer requests in the workers' place; remove it"
    )]
    CommandsCovered {
        /// The stream.
        stream: String,
        /// The command subjects.
        subject: String,
    },
    /// The streams could not be listed.
    #[error("cannot ask JetStream for its streams: {0}")]
    Streams(String),
    /// A bucket could not be created.
    #[error("cannot create the bucket {0}: {1}")]
    Bucket(&'static str, #[source] CreateKeyValueError),
}

/// JetStream over `connection`.
pub(super) fn jetstream(connection: &Connection) -> jetstream::Context {
    let mut context = jetstream::new(connection.client().clone());
    context.set_timeout(JETSTREAM_TIMEOUT);
    context
}

/// Creates every bucket that is missing; what exists is left as it is. Refuses a broker whose streams
/// would answer requests in the workers' place.
///
/// # Errors
/// [`ProvisionError`].
pub async fn provision(connection: &Connection, replicas: usize) -> Result<(), ProvisionError> {
    for service in [auth::SERVICE, events::SERVICE] {
        assert_commands_uncovered(connection, service).await?;
    }
    ensure_buckets(connection, replicas).await
}

/// Creates every bucket that is missing.
pub(super) async fn ensure_buckets(connection: &Connection, replicas: usize) -> Result<(), ProvisionError> {
    let jetstream = jetstream(connection);
    if jetstream.get_key_value(KEYS_BUCKET).await.is_ok() {
        return Ok(());
    }
    let bucket = kv::Config {
        bucket: KEYS_BUCKET.to_owned(),
        description: "The public keys that verify access tokens".to_owned(),
        history: 1,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        ..kv::Config::default()
    };
    match jetstream.create_key_value(bucket).await {
        Ok(_) => Ok(()),
        // Another process was faster.
        Err(_) if jetstream.get_key_value(KEYS_BUCKET).await.is_ok() => Ok(()),
        Err(error) => Err(ProvisionError::Bucket(KEYS_BUCKET, error)),
    }
}

/// Refuses to serve `service` while a stream covers its subjects.
///
/// # Errors
/// [`ProvisionError::CommandsCovered`], or [`ProvisionError::Streams`] when JetStream does not answer.
pub(super) async fn assert_commands_uncovered(
    connection: &Connection,
    service: &str,
) -> Result<(), ProvisionError> {
    let subject = format!("{service}.>");
    match jetstream(connection).stream_by_subject(subject.as_str()).await {
        Ok(stream) => Err(ProvisionError::CommandsCovered { stream, subject }),
        Err(error) if error.kind() == GetStreamByNameErrorKind::NotFound => Ok(()),
        Err(error) => Err(ProvisionError::Streams(error.to_string())),
    }
}
