//! What only a server can do to a store: locks that are held, deadlocks, restarts, absence.

use std::time::Duration;

use contract::events::{Event, EventStatus};
use database::{DatabaseSettings, DatabaseUrl, OpenError, StoreError};
use events_worker::store::{EventStore, SqlEventStore};
use nix::sys::signal::{Signal, kill};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::Instant;

use super::event_store::{HOME, event, found_by, insert, open, soon};
use crate::harness::pgbouncer::{CONNECTIONS, PgBouncer};
use crate::harness::postgres::Postgres;
use crate::harness::{Database, eventually};

async fn connect(url: SecretString) -> SqlEventStore {
    open_at(url, 4, 100).await.unwrap()
}

async fn open_at(
    url: SecretString,
    connections: u32,
    statement_cache: usize,
) -> Result<SqlEventStore, OpenError> {
    let settings = DatabaseSettings::at(Some(url));
    let url = settings.resolve("unused".as_ref()).unwrap();
    SqlEventStore::open(url, connections, statement_cache).await
}

fn approved(event: &Event) -> Event {
    Event { status: EventStatus::Approved, version: event.version + 1, ..event.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_for_a_lock_ends_at_the_deadline() {
    let (store, _directory) = open(Database::Postgres).await;
    let event = event(1);
    insert(&*store, &event).await;
    let next = approved(&event);
    let mut holder = store.begin(HOME, soon()).await.unwrap();
    assert!(holder.replace(&next, event.status, 1).await.unwrap());

    let started = Instant::now();
    let mut waiter = store.begin(HOME, started + Duration::from_millis(300)).await.unwrap();
    let waited = waiter.replace(&next, event.status, 1).await;
    assert!(matches!(waited, Err(StoreError::Unavailable(_))), "{waited:?}");
    let elapsed = started.elapsed();
    assert!((290..5000).contains(&elapsed.as_millis()), "{elapsed:?}");
    drop(waiter);
    let too_late = store.begin(HOME, Instant::now()).await.map(|_| ());
    assert!(matches!(too_late, Err(StoreError::Expired)), "{too_late:?}");

    holder.commit().await.unwrap();
    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), Some(next));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deadlocked_writes_one_is_told_to_try_again() {
    let (store, _directory) = open(Database::Postgres).await;
    let events = [event(1), event(2)];
    for event in &events {
        insert(&*store, event).await;
    }
    let mut transactions =
        [store.begin(HOME, soon()).await.unwrap(), store.begin(HOME, soon()).await.unwrap()];
    for (transaction, event) in transactions.iter_mut().zip(&events) {
        assert!(transaction.replace(&approved(event), event.status, 1).await.unwrap());
    }
    let [mut first, mut second] = transactions;
    let (other_way, one_way) = (approved(&events[1]), approved(&events[0]));
    let one = async {
        let written = first.replace(&other_way, EventStatus::Submitted, 1).await;
        drop(first);
        written
    };
    let other = async {
        let written = second.replace(&one_way, EventStatus::Submitted, 1).await;
        drop(second);
        written
    };
    let outcomes = tokio::join!(one, other);
    let collided = [&outcomes.0, &outcomes.1];
    let collisions =
        collided.iter().filter(|outcome| matches!(outcome, Err(StoreError::Collision(_)))).count();
    assert_eq!(collisions, 1, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_is_found_again_and_lost_nothing() {
    let server = Postgres::start().await;
    let store = connect(server.database().await).await;
    let event = event(1);
    insert(&store, &event).await;
    server.kill();
    eventually("the store notices", || async {
        let refused = store.find(event.organization_id, event.id).await;
        match refused {
            Err(StoreError::Unavailable(_)) => true,
            Ok(_) => false,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    // The killed server's children take a moment to notice, each for itself. A new connection is tried for until
    // the transaction should have begun.
    eventually("writes are refused", || async {
        matches!(store.begin(HOME, soon()).await, Err(StoreError::Unavailable(_) | StoreError::NotBegun))
    })
    .await;
    let server = server.start_again().await;
    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), Some(event));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_told_apart() {
    let server = Postgres::start().await;
    let store = connect(server.database().await).await;
    let event = event(1);
    insert(&store, &event).await;
    let mut transaction = store.begin(HOME, soon()).await.unwrap();
    assert!(transaction.replace(&approved(&event), event.status, 1).await.unwrap());
    // The process that serves this connection is killed: what it had not committed is gone.
    kill(server.backend_in_transaction().await, Signal::SIGTERM).unwrap();
    let lost = transaction.commit().await;
    assert!(matches!(lost, Err(StoreError::Commit(_))), "{lost:?}");
    assert_eq!(store.find(event.organization_id, event.id).await.unwrap(), Some(event));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_worker_starts_on_a_database_that_a_newer_one_has_migrated() {
    let url = Postgres::shared().await.database().await;
    connect(url.clone()).await;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of a later version', true, '\\x00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    insert(&connect(url).await, &event(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_turns_us_away_is_a_refusal_at_the_start_and_an_outage_later() {
    let server = Postgres::shared().await;
    let url = server.database().await;
    let store = connect(url.clone()).await;
    let gone = SecretString::from(format!("{}_gone", url.expose_secret()));
    let refused = open_at(gone, 4, 100).await.map(|_| ());
    assert!(matches!(refused, Err(OpenError::Refused(_))), "{refused:?}");
    let name = url.expose_secret().rsplit('/').next().unwrap();
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    sqlx::query(AssertSqlSafe(drop)).execute(&mut server.connect().await).await.unwrap();
    eventually("the store notices", || async {
        let found = store.find(event(1).organization_id, event(1).id).await;
        assert!(matches!(found, Ok(_) | Err(StoreError::Unavailable(_))), "{found:?}");
        found.is_err()
    })
    .await;
    let found = store.find(event(1).organization_id, event(1).id).await;
    assert!(matches!(found, Err(StoreError::Unavailable(_))), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_migrate_one_database_at_once() {
    let url = Postgres::shared().await.database().await;
    let stores = (0..4).map(|_| connect(url.clone()));
    let stores = futures_util::future::join_all(stores).await;
    insert(&stores[0], &event(1)).await;
    assert!(stores[3].find(event(1).organization_id, event(1).id).await.unwrap().is_some());
}

/// What `ask` comes to, however long the others keep it from beginning, within a minute: on a busy machine that is longer
/// than a store lets anybody wait.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        match ask().await {
            Err(StoreError::Busy | StoreError::NotBegun) if Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            ended => return ended,
        }
    }
}

/// Reads, lists and changes events of its own, several at once.
async fn use_together(stores: &[SqlEventStore]) -> Result<(), StoreError> {
    let uses = (0..16_u32).map(|number| {
        let store = &stores[usize::try_from(number).unwrap() % stores.len()];
        async move {
            let first = Event { title: format!("Number {number}."), ..event(u128::from(number) + 1) };
            for _ in 0..4 {
                let mut transaction = patiently(|| store.begin(HOME, soon())).await?;
                transaction.insert(&first).await?;
                transaction.commit().await?;
                assert_eq!(patiently(|| store.find(HOME, first.id)).await?.as_ref(), Some(&first));
                assert_eq!(patiently(|| found_by(store, &first.title)).await?, std::slice::from_ref(&first));
                let next = approved(&first);
                let mut transaction = patiently(|| store.begin(HOME, soon())).await?;
                assert!(transaction.replace(&next, first.status, first.version).await?);
                transaction.commit().await?;
                let mut transaction = patiently(|| store.begin(HOME, soon())).await?;
                assert!(transaction.remove(&next).await?);
                transaction.commit().await?;
            }
            Ok(())
        }
    });
    futures_util::future::try_join_all(uses).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_share_connections_behind_a_pooler() {
    let server = Postgres::shared().await;
    for (mode, statement_cache) in [("session", 100), ("session", 0), ("transaction", 0)] {
        let (pooler, url) = (PgBouncer::start(server, mode).await, server.database().await);
        // In session mode a connection to the server is somebody's own; one more is for health checks.
        let connections = if mode == "session" { CONNECTIONS / 2 - 1 } else { 2 * CONNECTIONS };
        let worker = || open_at(pooler.through(&url), connections, statement_cache);
        let stores = tokio::try_join!(worker(), worker()).unwrap();
        let stores = [stores.0, stores.1];
        use_together(&stores).await.unwrap_or_else(|error| panic!("{mode} {statement_cache}: {error}"));
        for store in &stores {
            store.ping().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_loses_prepared_statements_is_named_at_the_start() {
    let server = Postgres::shared().await;
    let (pooler, url) = (PgBouncer::start(server, "transaction").await, server.database().await);
    // Again as well: the first one leaves statements behind.
    for _ in 0..2 {
        let Err(OpenError::Store(error)) = open_at(pooler.through(&url), 4, 100).await.map(|_| ()) else {
            panic!("it serves")
        };
        assert!(matches!(error, StoreError::Pooler(_)), "{error:?}");
        assert!(error.to_string().contains("EVENTBOARD_DATABASE_STATEMENT_CACHE=0"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_begins_half_way_leaves_no_connection_behind() {
    let url = Postgres::shared().await.database().await;
    let store = open_at(url, 1, 100).await.unwrap();
    // More than the server can be told: BEGIN succeeds, and the limit is refused.
    let too_far = Instant::now() + Duration::from_secs(60 * 24 * 60 * 60);
    assert!(store.begin(HOME, too_far).await.is_err());
    insert(&store, &event(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_found_by_its_socket() {
    let server = Postgres::shared().await;
    let url = server.database().await;
    let name = url.expose_secret().rsplit('/').next().unwrap().to_owned();
    let options = PgConnectOptions::new_without_pgpass().host(server.directory()).port(server.port());
    let options = options.username("worker").database(&name);
    let store = SqlEventStore::open(DatabaseUrl::Postgres(Box::new(options)), 2, 100).await.unwrap();
    insert(&store, &event(1)).await;
}
