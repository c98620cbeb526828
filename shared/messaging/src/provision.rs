//! Creates what EventBoard keeps in JetStream, and refuses streams that would answer its requests.

use std::time::Duration;

use async_nats::jetstream::context::GetStreamByNameErrorKind;
use async_nats::jetstream::{self, kv, stream};

use identity::revocations::REVOCATION_SECONDS;
use telemetry::health::Health;
use tokio::time::Instant;

use super::connection::ConnectError;
use super::{Connection, NatsSettings};

/// The bucket with the public keys.
pub(super) const KEYS_BUCKET: &str = "public-keys";

/// The bucket with the leases of keyed writes.
pub(super) const IDEMPOTENCY_BUCKET: &str = "idempotency";
/// How long a lease or answer is remembered: an hour more than the 24 that are promised.
const IDEMPOTENCY_AGE: Duration = Duration::from_secs(25 * 60 * 60);

/// The bucket with what is revoked.
pub(super) const REVOCATIONS_BUCKET: &str = "revocations";
/// The bucket with failed logins.
pub(super) const THROTTLE_BUCKET: &str = "login-throttle";
/// How long a failed login is remembered: much longer than the longest pause it leads to.
const THROTTLE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// How much the leases and answers may take of the broker's disk: a full bucket must not keep revocations out.
const IDEMPOTENCY_BYTES: i64 = 256 * 1024 * 1024;
/// How much the failed logins may take of the broker's memory, at about 150 bytes each.
const THROTTLE_BYTES: i64 = 32 * 1024 * 1024;

/// Requests to JetStream are answered at once or not at all.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long provisioning waits for JetStream to work.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(500);

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
    /// The broker cannot be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams could not be listed.
    #[error("cannot ask JetStream for its streams: {0}")]
    Streams(String),
    /// A bucket could not be created or changed.
    #[error("cannot create or change the bucket {0}: {1}")]
    Bucket(String, String),
}

/// JetStream over `connection`.
pub(super) fn jetstream(connection: &Connection) -> jetstream::Context {
    let mut context = jetstream::new(connection.client().clone());
    context.set_timeout(JETSTREAM_TIMEOUT);
    context
}

/// Creates every bucket that is missing on the broker of `settings`, and brings the others to as many `replicas`. Refuses a broker
/// whose streams would answer requests in the workers' place. Waits a while for a cluster that has not
/// agreed on a leader yet.
///
/// # Errors
/// [`ProvisionError`].
pub async fn provision(settings: &NatsSettings, replicas: usize) -> Result<(), ProvisionError> {
    let connection = Connection::open(settings, "provision").await?;
    let provisioned = provision_on(&connection, replicas).await;
    connection.close().await;
    provisioned
}

async fn provision_on(connection: &Connection, replicas: usize) -> Result<(), ProvisionError> {
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        match provision_once(connection, replicas).await {
            Err(error @ (ProvisionError::Streams(_) | ProvisionError::Bucket(..)))
                if Instant::now() < give_up_at =>
            {
                tracing::warn!(%error, "trying again");
                tokio::time::sleep(RETRY_DELAY).await;
            }
            provisioned => return provisioned,
        }
    }
}

async fn provision_once(connection: &Connection, replicas: usize) -> Result<(), ProvisionError> {
    for service in contract::SERVICES {
        assert_commands_uncovered(connection, service.name).await?;
    }
    let jetstream = jetstream(connection);
    let revocation_age = Duration::from_secs(REVOCATION_SECONDS.unsigned_abs());
    let (file, memory) = (stream::StorageType::File, stream::StorageType::Memory);
    for (bucket, description, max_age, storage, max_bytes) in [
        (KEYS_BUCKET, "The public keys that verify access tokens", Duration::ZERO, file, -1),
        (IDEMPOTENCY_BUCKET, "Leases and answers of keyed writes", IDEMPOTENCY_AGE, file, IDEMPOTENCY_BYTES),
        (REVOCATIONS_BUCKET, "Access tokens that are not accepted any more", revocation_age, file, -1),
        // Written for each login, and only a guesser gains by its loss: not worth a disk.
        (THROTTLE_BUCKET, "Failed logins, by hashes", THROTTLE_AGE, memory, THROTTLE_BYTES),
    ] {
        let bucket = kv::Config {
            bucket: bucket.to_owned(),
            description: description.to_owned(),
            history: 1,
            max_age,
            storage,
            max_bytes,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        ensure_bucket(&jetstream, bucket).await?;
    }
    Ok(())
}

async fn ensure_bucket(jetstream: &jetstream::Context, bucket: kv::Config) -> Result<(), ProvisionError> {
    let (name, replicas) = (bucket.bucket.clone(), bucket.num_replicas);
    let failed = |error: &dyn std::error::Error| ProvisionError::Bucket(name.clone(), error.to_string());
    let existing = match jetstream.get_key_value(&name).await {
        Ok(existing) => existing,
        Err(_) => match jetstream.create_key_value(bucket).await {
            Ok(_) => {
                tracing::info!(bucket = name, replicas, "created");
                return Ok(());
            }
            // Another process may have been faster.
            Err(error) => jetstream.get_key_value(&name).await.map_err(|_| failed(&error))?,
        },
    };
    let mut config = existing.stream.cached_info().config.clone();
    if config.num_replicas != replicas {
        let before = std::mem::replace(&mut config.num_replicas, replicas);
        jetstream.update_stream(config).await.map_err(|error| failed(&error))?;
        tracing::info!(bucket = name, before, replicas, "changed the number of replicas");
    }
    Ok(())
}

/// Between two looks at the streams.
const COVERAGE_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the check `subjects` of `health` up to date: whether a stream covers the subjects of `service`.
pub async fn watch_coverage(connection: &Connection, service: &'static str, health: &Health) -> ! {
    let mut covered = false;
    loop {
        let began = Instant::now();
        let found = assert_commands_uncovered(connection, service).await;
        // Another check reports that JetStream does not answer; that says nothing about streams.
        if !matches!(found, Err(ProvisionError::Streams(_))) {
            if let Err(error) = &found
                && !covered
            {
                tracing::error!(%error, "requests are answered by a stream");
            }
            covered = found.is_err();
            health.observe(
                "subjects",
                began.elapsed(),
                found.map(|()| None).map_err(|error| error.to_string()),
            );
        }
        tokio::time::sleep_until(began + COVERAGE_INTERVAL).await;
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
