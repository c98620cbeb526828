//! Leases of keyed writes: the rules on a store in memory with faults, and the store on real brokers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::auth::{OrganizationId, Role, UserId};
use contract::{
    Answer, Context, CorrelationId, EntityTag, IdempotentRequest, KeyOrigin, Outcome, Problem, ProblemType,
    RequestIds, SavedResponse, Timestamp, TraceContext,
};
use futures_util::future::join_all;
use messaging::NatsSettings;
use messaging::idempotency::Idempotency;
use messaging::key_value::{Entry, KeyValueError, KeyValueStore};
use messaging::provision;
use messaging::{Bucket, Connection, RequestClient};
use proptest::prelude::*;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::harness::broker;

/// A store in memory, with the faults a real one has.
#[derive(Clone, Default)]
struct Memory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    entries: Mutex<HashMap<String, Entry>>,
    sequence: Mutex<u64>,
    /// Every request fails, and nothing happens.
    away: AtomicBool,
    /// The next write happens, and its acknowledgement is lost.
    lose_acknowledgement: AtomicBool,
    /// So many reads find nothing where something is: it is on its way to the replicas.
    hidden_reads: AtomicU32,
    requests: AtomicU32,
}

impl Memory {
    fn entry(&self) -> Option<Entry> {
        self.0.entries.lock().unwrap().values().next().cloned()
    }

    fn state(&self) -> String {
        let entry = self.entry().expect("an entry");
        let record: serde_json::Value = serde_json::from_slice(&entry.record).expect("a record");
        record["state"].as_str().unwrap().to_owned()
    }

    /// Changes the only entry as if it had been written so, at this time.
    fn rewrite(&self, change: impl Fn(&mut Entry)) {
        change(self.0.entries.lock().unwrap().values_mut().next().expect("an entry"));
    }
}

#[async_trait]
impl KeyValueStore for Memory {
    async fn read(&self, key: &str) -> Result<Option<Entry>, KeyValueError> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        if self.0.away.load(Ordering::Relaxed) {
            return Err(KeyValueError::Unavailable("away".to_owned()));
        }
        let hidden = |count: u32| count.checked_sub(1);
        if self.0.hidden_reads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, hidden).is_ok() {
            return Ok(None);
        }
        Ok(self.0.entries.lock().unwrap().get(key).cloned())
    }

    async fn write(&self, key: &str, record: &[u8], revision: u64) -> Result<u64, KeyValueError> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        if self.0.away.load(Ordering::Relaxed) {
            return Err(KeyValueError::Unavailable("away".to_owned()));
        }
        let mut entries = self.0.entries.lock().unwrap();
        if entries.get(key).map_or(0, |entry| entry.revision) != revision {
            return Err(KeyValueError::Conflict);
        }
        let mut sequence = self.0.sequence.lock().unwrap();
        *sequence += 1;
        let entry = Entry { record: Bytes::copy_from_slice(record), revision: *sequence, written_at: now() };
        entries.insert(key.to_owned(), entry);
        if self.0.lose_acknowledgement.swap(false, Ordering::Relaxed) {
            return Err(KeyValueError::Unavailable("no answer in time".to_owned()));
        }
        Ok(*sequence)
    }
}

/// The database: one answer per key, and how often something took effect.
#[derive(Clone, Default)]
struct Rows {
    kept: Arc<Mutex<HashMap<[u8; 32], SavedResponse>>>,
    effects: Arc<Mutex<HashMap<[u8; 32], u32>>>,
    /// How often somebody set to work.
    runs: Arc<AtomicU32>,
}

fn now() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

fn write(key: u8, fingerprint: u8) -> IdempotentRequest {
    IdempotentRequest {
        organization_id: OrganizationId(Uuid::from_u128(1)),
        user_id: UserId(Uuid::from_u128(2)),
        key_hash: [key; 32],
        fingerprint: [fingerprint; 32],
        role: Role::User,
        origin: KeyOrigin::Client,
    }
}

fn context(id: &str) -> Context {
    Context {
        ids: RequestIds { correlation_id: CorrelationId::parse(id).unwrap(), trace: TraceContext::NONE },
        now: now(),
        deadline: Instant::now() + Duration::from_secs(10),
        write: None,
        if_match: None,
        if_none_match: None,
        principal: None,
        client_network: None,
        max_reply: 1 << 20,
    }
}

fn answer(text: &str) -> Answer {
    Answer {
        status: 201,
        body: text.to_owned().into(),
        etag: Some(EntityTag(1)),
        location: Some("/events/x".to_owned()),
        next_cursor: None,
        first: None,
    }
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Well,
    /// Nothing was done.
    Undone,
    /// The commit was not answered, and did not take place.
    Unknown,
    /// The process dies after the commit.
    DiesAfterCommit,
    /// The process dies before the commit.
    DiesBeforeCommit,
}

impl Rows {
    /// What the events worker does in its transaction: the effect and the answer, or neither.
    async fn run(
        &self,
        cx: &Context,
        write: &IdempotentRequest,
        text: &str,
        ending: Ending,
    ) -> Result<Answer, Problem> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        match ending {
            Ending::Undone => return Err(Problem::new(ProblemType::Unavailable, "away")),
            Ending::Unknown => {
                let lost = Problem::new(ProblemType::ConnectionLost, "lost");
                return Err(lost.with_outcome(Outcome::Unknown));
            }
            Ending::DiesBeforeCommit => return std::future::pending().await,
            Ending::Well | Ending::DiesAfterCommit => {}
        }
        let known = self.kept.lock().unwrap().get(&write.key_hash).cloned();
        let answer = match known {
            Some(kept) => {
                let reused = |_| Problem::new(ProblemType::KeyReused, "reused");
                return write.replay(kept).map_err(reused);
            }
            None => answer(text),
        };
        self.kept.lock().unwrap().insert(write.key_hash, write.to_saved(&answer, cx));
        *self.effects.lock().unwrap().entry(write.key_hash).or_default() += 1;
        if ending == Ending::DiesAfterCommit {
            return std::future::pending().await;
        }
        Ok(answer)
    }

    /// One request, as a worker handles it. A process that dies leaves its request hanging: `None`.
    async fn request(
        &self,
        idempotency: &Arc<Idempotency>,
        write: &IdempotentRequest,
        text: &str,
        ending: Ending,
    ) -> Option<Result<Answer, Problem>> {
        let (cx, tracker) = (context(text), TaskTracker::new());
        let kept = || {
            let kept = self.kept.lock().unwrap().get(&write.key_hash).cloned();
            std::future::ready(Ok(kept))
        };
        let run = self.run(&cx, write, text, ending);
        let once = idempotency.once(&cx, write, Duration::from_secs(10), run, kept, &tracker);
        let outcome = tokio::time::timeout(Duration::from_secs(9), once).await.ok();
        tracker.close();
        tracker.wait().await;
        outcome
    }

    fn effects(&self) -> u32 {
        self.effects.lock().unwrap().values().sum()
    }
}

struct Bench {
    memory: Memory,
    rows: Rows,
    workers: Vec<Arc<Idempotency>>,
}

impl Bench {
    fn new() -> Self {
        let memory = Memory::default();
        let workers = (0..2).map(|_| Arc::new(Idempotency::new(memory.clone()))).collect();
        Self { memory, rows: Rows::default(), workers }
    }

    async fn request(&self, worker: usize, text: &str, ending: Ending) -> Option<Result<Answer, Problem>> {
        self.rows.request(&self.workers[worker], &write(1, 1), text, ending).await
    }

    async fn answer(&self, worker: usize, text: &str) -> Answer {
        self.request(worker, text, Ending::Well).await.expect("an end").expect("an answer")
    }
}

fn assert_replay(replay: &Answer, of: &str) {
    assert_eq!((replay.body.as_ref(), replay.status), (of.as_bytes(), 201));
    assert_eq!(replay.first.as_ref().map(|first| first.correlation_id.as_str()), Some(of));
}

#[tokio::test(start_paused = true)]
async fn the_second_is_given_the_first_answer() {
    let bench = Bench::new();
    let first = bench.answer(0, "first").await;
    assert_eq!((first.body.as_ref(), first.first), (&b"first"[..], None));
    assert_eq!(bench.memory.state(), "done");
    let again = bench.answer(1, "second").await;
    assert_replay(&again, "first");
    assert_eq!((again.etag, again.location.as_deref()), (Some(EntityTag(1)), Some("/events/x")));
    assert_eq!(bench.rows.effects(), 1);
    let other = bench.rows.request(&bench.workers[0], &write(1, 2), "other", Ending::Well).await.unwrap();
    assert_eq!(other.unwrap_err().kind, ProblemType::KeyReused);
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_of_ones_own_claim_is_no_foreign_claim() {
    let bench = Bench::new();
    bench.memory.0.lose_acknowledgement.store(true, Ordering::Relaxed);
    let started = Instant::now();
    assert_eq!(bench.answer(0, "first").await.first, None);
    assert!(started.elapsed() < Duration::from_millis(100), "it waited for itself: {:?}", started.elapsed());
    assert_eq!((bench.memory.state().as_str(), bench.rows.effects()), ("done", 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_to_the_replicas_is_waited_for() {
    let bench = Bench::new();
    assert!(bench.request(0, "dying", Ending::DiesAfterCommit).await.is_none());
    bench.memory.0.hidden_reads.store(3, Ordering::Relaxed);
    assert_replay(&bench.answer(1, "second").await, "dying");
    assert_eq!(
        (bench.rows.effects(), bench.rows.runs.load(Ordering::Relaxed)),
        (1, 1),
        "nobody runs unclaimed"
    );
}

#[tokio::test(start_paused = true)]
async fn another_request_under_a_running_key_is_refused_at_once() {
    let bench = Bench::new();
    assert!(bench.request(0, "dying", Ending::DiesBeforeCommit).await.is_none());
    let started = Instant::now();
    let other = bench.rows.request(&bench.workers[1], &write(1, 2), "other", Ending::Well).await.unwrap();
    assert_eq!(other.unwrap_err().kind, ProblemType::KeyReused);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_finds_the_answer_in_the_database_completes_the_record() {
    let bench = Bench::new();
    assert!(bench.request(0, "dying", Ending::DiesAfterCommit).await.is_none());
    assert_eq!(bench.memory.state(), "running");
    let started = Instant::now();
    assert_replay(&bench.answer(1, "second").await, "dying");
    assert!(started.elapsed() < Duration::from_millis(1), "recovery took {:?}", started.elapsed());
    assert_eq!((bench.memory.state().as_str(), bench.rows.effects()), ("done", 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_is_waited_for_two_seconds_and_succeeded_after_its_lease() {
    let bench = Bench::new();
    assert!(bench.request(0, "dying", Ending::DiesBeforeCommit).await.is_none());
    let started = Instant::now();
    let waited = bench.request(1, "second", Ending::Well).await.unwrap().unwrap_err();
    assert_eq!((waited.kind, waited.outcome), (ProblemType::KeyInProgress, Outcome::None));
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    // By the broker's clock.
    bench.memory.rewrite(|entry| entry.written_at = now().plus_seconds(-21));
    assert_eq!(bench.answer(1, "third").await.first, None);
    assert_eq!((bench.memory.state().as_str(), bench.rows.effects()), ("done", 1));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_does_not_keep_a_dead_owner_alive() {
    let bench = Bench::new();
    assert!(bench.request(0, "dying", Ending::DiesBeforeCommit).await.is_none());
    bench.memory.rewrite(|entry| entry.written_at = now().plus_seconds(600));
    assert!(bench.request(1, "second", Ending::Well).await.unwrap().is_err());
    tokio::time::advance(Duration::from_secs(14)).await;
    assert_eq!(bench.answer(1, "third").await.first, None);
    assert_eq!(bench.rows.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_sixty_four_wait() {
    let bench = Bench::new();
    assert!(bench.request(0, "dying", Ending::DiesBeforeCommit).await.is_none());
    let started = Instant::now();
    let waits = (0..70).map(|_| async {
        let refused = bench.request(1, "second", Ending::Well).await.unwrap().unwrap_err();
        assert_eq!(refused.kind, ProblemType::KeyInProgress);
        started.elapsed()
    });
    let waited = join_all(waits).await;
    assert_eq!(waited.iter().filter(|elapsed| **elapsed == Duration::from_secs(2)).count(), 64);
    assert_eq!(waited.iter().filter(|elapsed| elapsed.is_zero()).count(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_had_no_effect_may_be_tried_again_and_what_may_have_had_one_is_looked_up() {
    let bench = Bench::new();
    assert!(bench.request(0, "undone", Ending::Undone).await.unwrap().is_err());
    assert_eq!(bench.memory.state(), "free");
    assert!(bench.request(0, "unknown", Ending::Unknown).await.unwrap().is_err());
    assert_eq!(bench.memory.state(), "running");
    assert_eq!(
        bench.request(1, "early", Ending::Well).await.unwrap().unwrap_err().kind,
        ProblemType::KeyInProgress
    );
    bench.memory.rewrite(|entry| entry.written_at = now().plus_seconds(-21));
    assert_eq!(bench.answer(1, "late").await.body, "late");
    assert_eq!(bench.rows.effects(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_the_database_guards_alone() {
    let bench = Bench::new();
    bench.memory.0.away.store(true, Ordering::Relaxed);
    assert_eq!(bench.answer(0, "first").await.first, None);
    let asked = bench.memory.0.requests.load(Ordering::Relaxed);
    assert_replay(&bench.answer(0, "second").await, "first");
    assert_eq!(bench.memory.0.requests.load(Ordering::Relaxed), asked, "a store that is away is left alone");
    bench.memory.0.away.store(false, Ordering::Relaxed);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_replay(&bench.answer(0, "third").await, "first");
    assert_eq!((bench.memory.state().as_str(), bench.rows.effects()), ("done", 1));
}

#[tokio::test(start_paused = true)]
async fn large_answers_stay_in_the_database() {
    let bench = Bench::new();
    let id = "first";
    let large = "x".repeat(40 * 1024);
    let run = async {
        let cx = context(id);
        let large = answer(&large);
        bench.rows.kept.lock().unwrap().insert([1; 32], write(1, 1).to_saved(&large, &cx));
        Ok(large)
    };
    let (cx, tracker) = (context(id), TaskTracker::new());
    let kept = || std::future::ready(Ok(None));
    let write = write(1, 1);
    let once = bench.workers[0].once(&cx, &write, Duration::from_secs(10), run, kept, &tracker);
    assert_eq!(once.await.unwrap().body, large);
    tracker.close();
    tracker.wait().await;
    assert!(bench.memory.entry().unwrap().record.len() < 1024);
    let again = bench.answer(1, "second").await;
    assert_eq!((again.body, again.first), (large.into(), Some(cx.ids.clone())));
    // Older than the retention: the key names a new write.
    bench.rows.kept.lock().unwrap().clear();
    assert_eq!(bench.answer(1, "third").await.body, "third");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_record_is_claimed_anew() {
    let bench = Bench::new();
    bench.answer(0, "first").await;
    bench.memory.rewrite(|entry| entry.record = Bytes::new());
    assert_replay(&bench.answer(1, "second").await, "first");
    assert_eq!((bench.memory.state().as_str(), bench.rows.effects()), ("done", 1));
}

#[derive(Debug, Clone)]
enum Step {
    Request { worker: usize, key: u8, fingerprint: u8, ending: Ending, lost: bool },
    Outage(bool),
    Wipe,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ending = prop_oneof![
        6 => Just(Ending::Well),
        1 => Just(Ending::Undone),
        1 => Just(Ending::Unknown),
        1 => Just(Ending::DiesAfterCommit),
        1 => Just(Ending::DiesBeforeCommit),
    ];
    let request = (0..2_usize, 1..4_u8, prop_oneof![5 => Just(1_u8), 1 => Just(2_u8)], ending, any::<bool>());
    let request = request.prop_map(|(worker, key, fingerprint, ending, lost)| Step::Request {
        worker,
        key,
        fingerprint,
        ending,
        lost,
    });
    let step = prop_oneof![
        8 => request,
        1 => any::<bool>().prop_map(Step::Outage),
        1 => Just(Step::Wipe),
        2 => (0..30_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..40)
}

/// Whatever happens to workers and store: one effect per key, one answer per write, and nobody else's.
async fn holds(steps: Vec<Step>) {
    let bench = Bench::new();
    let mut first: HashMap<u8, (u8, Bytes)> = HashMap::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Outage(away) => bench.memory.0.away.store(away, Ordering::Relaxed),
            Step::Wipe => bench.memory.0.entries.lock().unwrap().clear(),
            Step::Pass(seconds) => tokio::time::advance(Duration::from_secs(seconds)).await,
            Step::Request { worker, key, fingerprint, ending, lost } => {
                bench.memory.0.lose_acknowledgement.store(lost, Ordering::Relaxed);
                let write = write(key, fingerprint);
                let text = format!("request-{number}");
                let outcome = bench.rows.request(&bench.workers[worker], &write, &text, ending).await;
                bench.memory.0.lose_acknowledgement.store(false, Ordering::Relaxed);
                let committed = bench.rows.kept.lock().unwrap().get(&write.key_hash).cloned();
                if let Some(kept) = &committed {
                    let known = first.entry(key).or_insert((kept.fingerprint[0], kept.body.clone()));
                    assert_eq!(known.1, kept.body, "an answer was replaced");
                }
                match outcome {
                    Some(Ok(answer)) => {
                        let (owner, body) = first.get(&key).expect("answered without an effect");
                        assert_eq!((*owner, body), (fingerprint, &answer.body));
                        assert_eq!(answer.first.is_none(), answer.body == text.as_bytes());
                    }
                    Some(Err(problem)) if problem.kind == ProblemType::KeyReused => {
                        // By the answer that is kept, or, without one, by the claim that came first.
                        match first.get(&key) {
                            Some((owner, _)) => assert_ne!(*owner, fingerprint),
                            None => assert!(!bench.memory.0.entries.lock().unwrap().is_empty()),
                        }
                    }
                    Some(Err(problem)) => assert!(
                        matches!(
                            problem.kind,
                            ProblemType::KeyInProgress
                                | ProblemType::Unavailable
                                | ProblemType::ConnectionLost
                        ),
                        "{problem:?}"
                    ),
                    None => {}
                }
            }
        }
        assert!(bench.rows.effects.lock().unwrap().values().all(|effects| *effects == 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]
    #[test]
    fn one_effect_per_key_whatever_happens(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(holds(steps));
    }
}

/// What the rules above rest on, on a real bucket.
async fn keeps_its_promises(urls: &str, user: Option<&str>) {
    let settings = |user: &str| {
        let settings = NatsSettings::at(urls.to_owned());
        if user.is_empty() { settings } else { settings.with_user(user, broker::password(user)) }
    };
    let connection = Connection::open(&settings(user.unwrap_or("")), "events").await.unwrap();
    let bucket = Bucket::idempotency(RequestClient::start(connection).await.unwrap());
    let key = |name: &str| format!("v1.{name}.{}", Uuid::now_v7());
    let chain = key("chain");
    assert_eq!(bucket.read(&chain).await.unwrap(), None);
    let first = bucket.write(&chain, b"one", 0).await.unwrap();
    assert_eq!(bucket.write(&chain, b"two", 0).await, Err(KeyValueError::Conflict));
    let second = bucket.write(&chain, b"two", first).await.unwrap();
    assert!(second > first);
    assert_eq!(bucket.write(&chain, b"three", first).await, Err(KeyValueError::Conflict));
    let entry = bucket.read(&chain).await.unwrap().unwrap();
    assert_eq!((entry.record.as_ref(), entry.revision), (&b"two"[..], second));
    assert!((Timestamp::now().unix_millis() - entry.written_at.unix_millis()).abs() < 60_000);
    for _ in 0..20 {
        let key = key("race");
        let racers = join_all((0..32_u8).map(|racer| {
            let (bucket, key) = (&bucket, &key);
            async move { (racer, bucket.write(key, &[racer], 0).await) }
        }))
        .await;
        // A machine that is busy enough answers nobody in time, and then nothing is known.
        let late = Err(KeyValueError::Unavailable("no answer in time".to_owned()));
        let known: Vec<_> = racers.iter().filter(|(_, outcome)| *outcome != late).collect();
        let winners: Vec<_> = known.iter().filter(|(_, outcome)| outcome.is_ok()).collect();
        assert!(winners.len() <= 1 && (winners.len() == 1 || known.len() < racers.len()), "{racers:?}");
        // Everybody else is told that somebody was faster, whichever of the two codes it is.
        for (_, outcome) in known.iter().filter(|(_, outcome)| outcome.is_err()) {
            assert_eq!(*outcome, Err(KeyValueError::Conflict));
        }
        // Read at once, from whichever broker this connection has.
        if let Some((winner, _)) = winners.first() {
            let entry = bucket.read(&key).await.unwrap().expect("what was acknowledged is found");
            assert_eq!(entry.record.as_ref(), [*winner]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broker_keeps_the_promises_leases_rest_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats.conf");
    let broker = broker::start_configured(&file, directory.path(), None, &[]).await;
    let provisioner = NatsSettings::at(broker.url()).with_user("provision", broker::password("provision"));
    provision(&provisioner, 1).await.unwrap();
    keeps_its_promises(&broker.url(), Some("events-worker")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_keep_the_promises_leases_rest_on() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = super::cluster::Cluster::start(directory.path()).await;
    let provisioner = NatsSettings::at(cluster.urls()).with_user("provision", broker::password("provision"));
    provision(&provisioner, 3).await.unwrap();
    // From each of them: one is the leader, two are not.
    for broker in &cluster.brokers {
        keeps_its_promises(&broker.url(), Some("events-worker")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_an_absent_store() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker::start(directory.path(), None).await;
    let connection = Connection::open(&NatsSettings::at(broker.url()), "events").await.unwrap();
    let bucket = Bucket::idempotency(RequestClient::start(connection).await.unwrap());
    assert!(matches!(bucket.read("v1.a").await, Err(KeyValueError::Unavailable(_))));
    assert!(matches!(bucket.write("v1.a", b"x", 0).await, Err(KeyValueError::Unavailable(_))));
}
