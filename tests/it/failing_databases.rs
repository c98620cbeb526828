//! Databases that cannot do their work for a while: service returns by itself, seconds after the cause is gone.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use database::PingError;
use futures_util::future::join_all;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::time::Instant;

use crate::event_store;
use crate::harness::compose::Service;
use crate::harness::process::program;
use crate::harness::proxy::Proxy;
use crate::harness::stack::{Stack, timed};
use crate::harness::{Database, eventually};

/// How long it may take until everything works again.
const SECONDS: Duration = Duration::from_secs(5);

/// A script that runs the program `name` with a small file system of its own as its data directory.
async fn on_a_small_disk(name: &str, directory: &Path) -> PathBuf {
    let script = directory.join(format!("{name}-on-a-small-disk"));
    let namespace = if geteuid().is_root() { "-m" } else { "-Urm" };
    let program = program(name).await;
    let text = format!(
        "#!/bin/sh\nexec unshare {namespace} sh -c 'mount -t tmpfs -o size=3m tmpfs \"$EVENTBOARD_DATA_DIR\" && \
         cp \"$EVENTBOARD_DATA_DIR/../\"*.pem \"$EVENTBOARD_DATA_DIR\" 2>/dev/null; exec \"$0\"' {}\n",
        program.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    script
}

/// A file on the disk of a service that runs in a namespace of its own.
fn on_its_disk(service: &Service, data_dir: &Path, name: &str) -> PathBuf {
    let data_dir = data_dir.strip_prefix("/").unwrap();
    Path::new("/proc").join(service.process.pid().to_string()).join("root").join(data_dir).join(name)
}

/// Writes until there is no room left.
fn fill(path: &Path) {
    use std::io::Write;
    let mut filler = std::fs::File::create(path).unwrap();
    for size in [65_536, 512, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
}

async fn login(stack: &Stack) -> u16 {
    let credentials = json!({ "email": "user@techinnovators.com", "password": "Password123!" });
    timed(stack.client.post(format!("{}/auth/login", stack.http)).json(&credentials)).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived_without_a_restart() {
    let stack = Stack::start(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let settings = [("EVENTBOARD_DATA_DIR", data_dir.to_string_lossy().into_owned())];
    let events = on_a_small_disk("events-worker", directory.path()).await;
    let events = stack.compose.up_as("events-worker", &events, &settings).await;
    let write = async |title: &str| timed(stack.create(title)).await;
    assert_eq!(write("Before").await.status, 201);

    let filler = on_its_disk(&events, &data_dir, "filler");
    fill(&filler);
    let refused = write("Full").await;
    assert_eq!((refused.status, &refused.body["outcome"]), (503, &json!("none")), "{refused:?}");
    eventually("it is told", || async {
        let health = stack.health().await;
        health["checks"]["events-database"]["detail"] == json!("cannot be written")
    })
    .await;
    // What is there can be read.
    assert_eq!(timed(stack.get("/events?search=before")).await.body["meta"]["total"], 1);
    std::fs::remove_file(&filler).unwrap();
    let freed = Instant::now();
    eventually("writes succeed again", || async { write("After").await.status == 201 }).await;
    assert!(freed.elapsed() < SECONDS, "it took {:?}", freed.elapsed());
    eventually("it passes", || async { stack.check("events-database").await == "pass" }).await;
    assert_eq!(timed(stack.get("/events?search=full")).await.body["meta"]["total"], 0);
    assert_eq!(events.process.lines_with("\"message\":\"ready\"").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_nobody_from_signing_in_afterwards() {
    let mut stack = Stack::start(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let auth = on_a_small_disk("auth-worker", directory.path()).await;
    let settings = [("EVENTBOARD_DATA_DIR", data_dir.to_string_lossy().into_owned())];
    let auth = stack.compose.up_as("auth-worker", &auth, &settings).await;
    let before = std::mem::replace(&mut stack.auth, auth);
    assert!(before.down().await);
    assert_eq!(login(&stack).await, 200);
    let filler = on_its_disk(&stack.auth, &data_dir, "filler");
    fill(&filler);
    eventually("there is no room", || async { login(&stack).await == 503 }).await;
    eventually("it is told", || async { stack.check("auth-database").await == "fail" }).await;
    std::fs::remove_file(&filler).unwrap();
    let freed = Instant::now();
    eventually("logins succeed again", || async { login(&stack).await == 200 }).await;
    assert!(freed.elapsed() < SECONDS, "it took {:?}", freed.elapsed());
    eventually("it passes", || async { stack.check("auth-database").await == "pass" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_another_process_has_locked_is_refused_in_time_and_then_used() {
    let stack = Stack::start(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = [("EVENTBOARD_DATA_DIR", directory.path().to_string_lossy().into_owned())];
    let _worker = stack.events_worker(&settings).await;
    let create = |title: &str, wait: u32| timed(stack.create(title).header("Prefer", format!("wait={wait}")));
    assert_eq!(create("Before", 9).await.status, 201);
    let file = SqliteConnectOptions::new().filename(directory.path().join("events.db"));
    let mut other = SqliteConnection::connect_with(&file).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for wait in [1, 3, 9] {
        let refused = create("Locked", wait).await;
        assert_eq!((refused.status, &refused.body["outcome"]), (503, &json!("none")), "{refused:?}");
        assert!(refused.took < Duration::from_millis(u64::from(wait) * 1000), "{wait}: {refused:?}");
        // Reads do not wait for a writer.
        assert_eq!(timed(stack.get("/events?search=before")).await.body["meta"]["total"], 1);
    }
    lock.rollback().await.unwrap();
    eventually("writes succeed again", || async { create("After", 9).await.status == 201 }).await;
    let found = timed(stack.get("/events?search=locked")).await;
    assert_eq!(found.body["meta"]["total"], 0, "{found:?}");
}

/// Waits until a write succeeds, which must be within seconds, and until the database passes its check.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_gets_nothing_done_is_told_and_a_busy_one_is_not() {
    let (store, _tables) = event_store::open(Database::Sqlite).await;
    store.ping().await.unwrap();
    // Many write: those who ask have to wait, as everybody has.
    let until = Instant::now() + Duration::from_secs(12);
    let writes = (0..200).map(|_| async {
        while Instant::now() < until {
            if let Ok(transaction) = store.begin(event_store::HOME, event_store::soon()).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
                transaction.commit().await.unwrap();
            }
        }
    });
    let asks = async {
        while Instant::now() < until {
            store.ping().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::join!(join_all(writes), asks);
    // One writes, and does not come to its end.
    let stuck = store.begin(event_store::HOME, event_store::soon()).await.unwrap();
    let told = async || matches!(store.ping().await, Err(PingError::NotWritable(_)));
    eventually("the health check tells it", told).await;
    // One that nobody waits for to its end says nothing good, and is not made again at once.
    assert!(tokio::time::timeout(Duration::from_millis(100), store.ping()).await.is_err());
    drop(stuck);
    assert!(told().await);
    let well = async || store.ping().await.is_ok();
    eventually("it goes on", well).await;
}

async fn recovers(stack: &Stack, what: &str) {
    let begun = Instant::now();
    eventually(what, || async { timed(stack.create("After")).await.status == 201 }).await;
    assert!(begun.elapsed() < SECONDS, "{what}: it took {:?}", begun.elapsed());
    eventually("it passes", || async { stack.check("events-database").await == "pass" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_no_connection_stays_with_the_server_that_takes_no_writes() {
    let stack = Stack::start(&[]).await;
    let primary = &stack.compose.postgres;
    let standby = primary.standby().await;
    let proxy = Proxy::before(primary.port()).await;
    let url = format!("postgres://events@127.0.0.1:{}/events", proxy.port());
    let settings = [("EVENTBOARD_DATABASE_URL", url), ("EVENTBOARD_DATABASE_CONNECTIONS", "4".to_owned())];
    let worker = stack.events_worker(&settings).await;
    recovers(&stack, "at the start").await;

    // Led to a standby: it answers, and takes no writes.
    proxy.lead_to(standby.port());
    proxy.cut();
    eventually("writes are refused", || async {
        let refused = timed(stack.create("Standby")).await;
        assert!(matches!(refused.status, 201 | 503), "{refused:?}");
        refused.status == 503
    })
    .await;
    eventually("it is told", || async {
        stack.health().await["checks"]["events-database"]["detail"] == json!("cannot be written")
    })
    .await;
    // New connections lead to the primary, those to the standby live on.
    proxy.lead_to(primary.port());
    recovers(&stack, "led back").await;

    // The primary takes no writes any more, and the standby is the primary. Nobody's connection breaks.
    sqlx::query("SELECT pg_promote()").execute(&mut standby.connect().await).await.unwrap();
    for statement in ["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"] {
        sqlx::query(statement).execute(&mut primary.connect().await).await.unwrap();
    }
    eventually("the primary is demoted", || async { timed(stack.create("Demoted")).await.status == 503 })
        .await;
    proxy.lead_to(standby.port());
    recovers(&stack, "after the failover").await;

    // Every connection is ended by the administrator.
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'events'")
        .execute(&mut standby.connect().await)
        .await
        .unwrap();
    recovers(&stack, "after all connections were ended").await;
    assert_eq!(worker.process.lines_with("\"message\":\"ready\"").len(), 1);
    let listed: Value = timed(stack.get("/events?search=demoted")).await.body;
    assert_eq!(listed["meta"]["total"], 0, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_refused_waits_for_no_second_connection() {
    let stack = Stack::start(&[]).await;
    let _worker = stack.events_worker(&[("EVENTBOARD_DATABASE_CONNECTIONS", "1".to_owned())]).await;
    let created = timed(stack.create("Only one")).await;
    assert_eq!(created.status, 201, "{created:?}");
    let path = format!("{}/events/{}", stack.http, created.body["id"].as_str().unwrap());
    let change = || stack.client.patch(&path).bearer_auth(&stack.token).json(&json!({ "title": "Another" }));
    // The gateway names every write, so that what an earlier attempt did is looked up.
    for tag in ["\"7\"", "W/\"1\""] {
        let refused = timed(change().header("If-Match", tag)).await;
        assert_eq!(refused.status, 412, "{refused:?}");
    }
    assert_eq!(timed(change().header("If-Match", "\"1\"")).await.status, 200);
}
