//! Every process is replaced, one after the other, while clients go on: none of them notices.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster;
use crate::harness::compose::{Compose, Service};
use crate::harness::eventually;
use crate::harness::process::{Process, program};
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::stack::{Stack, USER, timed};
use crate::harness::system::event;
use crate::harness::walkthrough::Visitor;

/// Clients at once.
const CLIENTS: usize = 6;
/// How often the balancer asks whether a gateway is ready.
const INTERVAL: Duration = Duration::from_millis(50);

/// What stands before the gateways, as a proxy does: requests go to those that said they were ready.
#[derive(Default)]
struct Balancer {
    gateways: Mutex<Vec<Arc<Target>>>,
    next: AtomicUsize,
}

struct Target {
    http: String,
    ready: AtomicBool,
    gone: AtomicBool,
}

impl Balancer {
    fn add(&self, http: String) -> Arc<Target> {
        let target = Arc::new(Target { http, ready: AtomicBool::new(false), gone: AtomicBool::new(false) });
        self.gateways.lock().unwrap().push(Arc::clone(&target));
        let watched = Arc::clone(&target);
        tokio::spawn(async move {
            let client = Client::new();
            while !watched.gone.load(Ordering::Relaxed) {
                let asked = client.get(format!("{}/readyz", watched.http)).send().await;
                watched.ready.store(asked.is_ok_and(|answer| answer.status() == 200), Ordering::Relaxed);
                tokio::time::sleep(INTERVAL).await;
            }
        });
        target
    }

    fn pick(&self) -> String {
        let gateways = self.gateways.lock().unwrap();
        let ready: Vec<_> = gateways.iter().filter(|target| target.ready.load(Ordering::Relaxed)).collect();
        assert!(!ready.is_empty(), "no gateway is ready");
        ready[self.next.fetch_add(1, Ordering::Relaxed) % ready.len()].http.clone()
    }
}

/// Clients that go on until they are stopped.
struct Load {
    stop: CancellationToken,
    clients: Vec<JoinHandle<()>>,
    failures: Arc<Mutex<Vec<String>>>,
    answered: Arc<AtomicUsize>,
    slowest: Arc<Mutex<Duration>>,
}

impl Load {
    fn start(balancer: &Arc<Balancer>, token: &str, logins: bool) -> Self {
        let (stop, failures) = (CancellationToken::new(), Arc::<Mutex<Vec<String>>>::default());
        let (answered, slowest) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Duration>>::default());
        let clients = (0..CLIENTS).map(|client| {
            let (balancer, token, stop) = (Arc::clone(balancer), token.to_owned(), stop.clone());
            let (failures, answered, slowest) =
                (Arc::clone(&failures), Arc::clone(&answered), Arc::clone(&slowest));
            tokio::spawn(async move {
                let http = Client::new();
                for number in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let begun = Instant::now();
                    let kind = (client + number) % 8;
                    let outcome = request(&http, &balancer.pick(), &token, kind, logins).await;
                    let took = begun.elapsed();
                    match outcome {
                        Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => {
                            failures.lock().unwrap().push(format!("{kind} after {took:?}: {failure}"));
                            0
                        }
                    };
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = took.max(*slowest);
                }
            })
        });
        Self { clients: clients.collect(), stop, failures, answered, slowest }
    }

    /// Goes on until a few more requests have been answered.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("clients go on", || async { self.answered.load(Ordering::Relaxed) > before + 100 }).await;
    }

    async fn end(self) {
        self.stop.cancel();
        for client in self.clients {
            client.await.unwrap();
        }
        let failures = self.failures.lock().unwrap();
        let answered = self.answered.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {answered}: {failures:#?}", failures.len());
        let slowest = *self.slowest.lock().unwrap();
        assert!(slowest < Duration::from_secs(9), "the slowest of {answered} took {slowest:?}");
    }
}

/// One request of a mix of reads and writes.
async fn request(client: &Client, http: &str, token: &str, kind: usize, logins: bool) -> Result<(), String> {
    let request = match kind {
        0 | 1 => client.post(format!("{http}/events")).json(&event("Rolling")),
        2 => {
            let key = uuid::Uuid::now_v7().to_string();
            client.post(format!("{http}/events")).json(&event("Rolling")).header("Idempotency-Key", key)
        }
        3 => client.get(format!("{http}/auth/me")),
        4 if logins => {
            let credentials = json!({ "email": USER, "password": "Password123!" });
            client.post(format!("{http}/auth/login")).json(&credentials)
        }
        _ => client.get(format!("{http}/events?limit=5")),
    };
    let request = if kind == 4 && logins { request } else { request.bearer_auth(token) };
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body: Value = answer.json().await.map_err(|error| format!("{error:?}"))?;
    if status.is_success() { Ok(()) } else { Err(body.to_string()) }
}

/// A gateway of the composition that says a second before it closes that it will.
async fn gateway(compose: &Compose, balancer: &Balancer, more: &[(&str, String)]) -> (Service, Arc<Target>) {
    let mut settings = more.to_vec();
    settings.push(("EVENTBOARD_DRAIN_DELAY", "1".to_owned()));
    let service = compose.up_as("gateway", &program("gateway").await, &settings).await;
    let target = balancer.add(service.http().await);
    eventually("the gateway gets requests", || async { target.ready.load(Ordering::Relaxed) }).await;
    (service, target)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_says_so_before_it_closes() {
    let compose = Compose::start().await;
    assert!(compose.run("provision").await);
    let _workers = [compose.up("auth-worker").await, compose.up("events-worker").await];
    let (mut service, target) = gateway(&compose, &Balancer::default(), &[]).await;
    let http = target.http.clone();
    let token = Visitor::new(&http).login(USER).await;
    target.gone.store(true, Ordering::Relaxed);
    // A connection that is kept, and one that is only made.
    let client = Client::new();
    client.get(format!("{http}/livez")).send().await.unwrap();
    service.process.signal(Signal::SIGTERM);
    eventually("it says that it stops", || async {
        client.get(format!("{http}/readyz")).send().await.unwrap().status() == 503
    })
    .await;
    let asked = Instant::now();
    let mut answered = 0;
    while let Ok(answer) = client.get(format!("{http}/events")).bearer_auth(&token).send().await {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["connection"], "close", "clients are not asked to leave");
        answered += 1;
    }
    let open = asked.elapsed();
    assert!(answered > 10 && open > Duration::from_millis(700), "{answered} answers in {open:?}");
    assert!(service.process.ended().await, "it ends badly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_loses_nothing_that_is_on_its_way() {
    let stack = Stack::start(&[]).await;
    let _stays = stack.events_worker(&[]).await;
    // Some milliseconds away, so that messages are on their way when it says that it leaves.
    let proxy = Proxy::before(stack.compose.broker.port()).await;
    proxy.set(Weather::Slow(Duration::from_millis(3)));
    let url = [("EVENTBOARD_NATS_URL", format!("nats://127.0.0.1:{}", proxy.port()))];
    let stop = AtomicBool::new(false);
    let clients = futures_util::future::join_all((0..16).map(|_| async {
        while !stop.load(Ordering::Relaxed) {
            let answer = timed(stack.look_up()).await;
            assert_eq!(answer.status, 404, "{answer:?}");
        }
    }));
    let leaving = async {
        for _ in 0..3 {
            let worker = stack.events_worker(&url).await;
            eventually("it has its share", || async { worker.process.lines_with("events.get").len() > 50 })
                .await;
            assert!(worker.down().await, "it ends badly");
        }
        // Whoever was lost would be sent again after two seconds.
        tokio::time::sleep(Duration::from_millis(2200)).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(clients, leaving);
    let again = stack.gateway.process.lines_with("sent again");
    assert!(again.is_empty(), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_every_service_under_load_fails_no_request() {
    let compose = Compose::start().await;
    assert!(compose.run("provision").await);
    let balancer = Arc::new(Balancer::default());
    let mut workers = Vec::new();
    for name in ["auth-worker", "events-worker", "auth-worker", "events-worker"] {
        workers.push((name, compose.up(name).await));
    }
    let mut gateways = vec![gateway(&compose, &balancer, &[]).await, gateway(&compose, &balancer, &[]).await];
    let token = Visitor::new(&balancer.pick()).login(USER).await;
    let load = Load::start(&balancer, &token, true);
    for (name, worker) in std::mem::take(&mut workers) {
        load.goes_on().await;
        assert!(worker.down().await, "a {name} ends badly");
        workers.push((name, compose.up(name).await));
    }
    for (old, target) in std::mem::take(&mut gateways) {
        load.goes_on().await;
        assert!(old.down().await, "a gateway ends badly");
        target.gone.store(true, Ordering::Relaxed);
        gateways.push(gateway(&compose, &balancer, &[]).await);
    }
    load.goes_on().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_every_broker_of_a_cluster_under_load_fails_no_request() {
    let compose = Compose::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = cluster::Cluster::start(directory.path()).await;
    let urls = cluster.urls();
    let url = [("EVENTBOARD_NATS_URL", urls.clone())];
    let mut environment = compose.environment("provision");
    environment.insert("EVENTBOARD_NATS_URL".to_owned(), urls);
    environment.insert("EVENTBOARD_REPLICAS".to_owned(), "3".to_owned());
    let mut provision = Process::start(&program("eventboard").await, &["provision"], environment);
    assert!(provision.ended().await, "provisioning fails");
    let balancer = Arc::new(Balancer::default());
    let mut workers = Vec::new();
    for name in ["auth-worker", "events-worker", "events-worker"] {
        workers.push(compose.up_as(name, &program(name).await, &url).await);
    }
    let _gateway = gateway(&compose, &balancer, &url).await;
    let token = Visitor::new(&balancer.pick()).login(USER).await;
    // No logins: what was delivered and may have happened is not repeated.
    let load = Load::start(&balancer, &token, false);
    for index in 0..3 {
        load.goes_on().await;
        cluster.brokers[index].signal(Signal::SIGTERM);
        cluster.brokers[index].ended().await;
        load.goes_on().await;
        cluster.start_again(index).await;
        cluster.is_whole(index).await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_has_only_just_started_refuses_nobody() {
    let stack = Stack::start(&[]).await;
    let _worker = stack.events_worker(&[]).await;
    assert!(stack.works().await);
    for round in 0..8 {
        let mut environment = stack.compose.environment("gateway");
        let http = format!("127.0.0.1:{}", crate::harness::ports::free_port());
        environment.insert("EVENTBOARD_HTTP".to_owned(), http.clone());
        let gateway = Process::start(&program("gateway").await, &[], environment);
        // Clients that do not ask whether it is ready: the first connection that is taken carries requests.
        let patience = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(&http).await.is_err() {
            assert!(Instant::now() < patience, "the gateway does not listen");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let client = Client::new();
        let asks = (0..20).map(|_| {
            let url = format!("http://{http}/events/{}", uuid::Uuid::now_v7());
            timed(client.get(url).bearer_auth(&stack.token))
        });
        for answer in futures_util::future::join_all(asks).await {
            assert_eq!(answer.status, 404, "round {round}: {answer:?}");
        }
        drop(gateway);
    }
}
