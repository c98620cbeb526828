//! More than there is room for: of requests, of connections, of one client's patience with the rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, RequestBuilder};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::process::program;
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::stack::{Stack, Timed, median, timed};

/// How long each measurement lasts, and how often one of either kind is made.
const ROUND: Duration = Duration::from_secs(4);
const ROUNDS: u32 = 2;
const MEASUREMENTS: u32 = 3;

/// Requests that succeed within a round while each of `clients` sends the next one as soon as the last is
/// answered.
async fn peak(clients: usize, request: impl Fn() -> RequestBuilder) -> usize {
    let (begun, request) = (Instant::now(), &request);
    let clients = (0..clients).map(|_| async move {
        let mut done = 0;
        while begun.elapsed() < ROUND {
            done += usize::from(timed(request()).await.status < 300);
        }
        done
    });
    join_all(clients).await.into_iter().sum()
}

/// Sends so many requests in a round, whether or not any are answered, and returns all answers.
async fn offer(requests: usize, request: impl Fn() -> RequestBuilder) -> Vec<Timed> {
    let (begun, mut sent) = (Instant::now(), Vec::new());
    for number in 0..requests {
        tokio::time::sleep_until(begun + ROUND.mul_f64(number as f64 / requests as f64)).await;
        sent.push(tokio::spawn(timed(request())));
    }
    join_all(sent).await.into_iter().map(Result::unwrap).collect()
}

/// At three times what is possible, almost as much is done, and whoever is refused is told when to come back.
///
/// The machine is shared, and what others take of it can only make this worse: the best of a few measurements
/// counts.
async fn holds(what: &str, clients: usize, request: impl Fn() -> RequestBuilder) {
    let mut seen = Vec::new();
    for _ in 0..MEASUREMENTS {
        let (peak, goodput, told) = measure(what, clients, &request).await;
        if goodput >= 0.8 * peak {
            return;
        }
        seen.push(told);
    }
    panic!("{seen:#?}");
}

/// Requests done per second at the peak, and at three times as many. Measured in turns, so that a machine that
/// is busy for a while is so for both.
async fn measure(what: &str, clients: usize, request: impl Fn() -> RequestBuilder) -> (f64, f64, String) {
    let (mut possible, mut answers) = (0, Vec::new());
    // The last answers of a round come after its end, in either kind.
    let (mut at_peak, mut offering) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let peak = peak(clients, &request).await;
        at_peak += begun.elapsed();
        let begun = Instant::now();
        answers.extend(offer(3 * peak, &request).await);
        offering += begun.elapsed();
        possible += peak;
    }
    let mut by_status = BTreeMap::<u16, usize>::new();
    for answer in &answers {
        *by_status.entry(answer.status).or_default() += 1;
        if answer.status >= 300 {
            assert!(matches!(answer.status, 429 | 503), "{what}: {answer:?}");
            assert!(answer.retry_after.is_some_and(|seconds| seconds >= 1), "{what}: {answer:?}");
        }
    }
    let done = answers.iter().filter(|answer| answer.status < 300).count();
    let slowest = answers.iter().map(|answer| answer.took).max().unwrap();
    assert!(slowest < Duration::from_secs(5), "{what}: the slowest took {slowest:?}");
    let (peak, goodput) = (possible as f64 / at_peak.as_secs_f64(), done as f64 / offering.as_secs_f64());
    let told = format!("{what}: {goodput:.0}/s of {peak:.0}/s, {by_status:?}, the slowest took {slowest:?}");
    (peak, goodput, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_three_times_the_capacity_of_a_database_almost_as_much_is_done() {
    let stack = Stack::start(&[]).await;
    // A database that is far away, and two connections to it: what limits is not this machine.
    let proxy = Proxy::before(stack.compose.postgres.port()).await;
    let settings = [
        ("EVENTBOARD_DATABASE_URL", format!("postgres://events@127.0.0.1:{}/events", proxy.port())),
        ("EVENTBOARD_DATABASE_CONNECTIONS", "2".to_owned()),
    ];
    let _worker = stack.events_worker(&settings).await;
    proxy.set(Weather::Slow(Duration::from_millis(5)));
    holds("writes", 4, || stack.create("Much")).await;
    // Refusals for want of room say nothing about the worker.
    assert!(stack.gateway.process.lines_with("a breaker opened").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_three_times_the_capacity_of_a_password_thread_almost_as_much_is_done() {
    let mut stack = Stack::start(&[]).await;
    // One, so that what limits is not what the clients take of this machine.
    let settings = [("EVENTBOARD_PASSWORD_THREADS", "1".to_owned())];
    let auth = stack.compose.up_as("auth-worker", &program("auth-worker").await, &settings).await;
    assert!(std::mem::replace(&mut stack.auth, auth).down().await);
    holds("logins", 8, || {
        let credentials = json!({ "email": "user@acme.com", "password": "Password123!" });
        stack.client.post(format!("{}/auth/login", stack.http)).json(&credentials)
    })
    .await;
    assert_eq!(timed(stack.get("/auth/me")).await.status, 200, "reading does not go on beside it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_refused_and_told_when_to_come_back() {
    let settings = [
        ("EVENTBOARD_RATE_LIMIT_USER", "2:4".to_owned()),
        ("EVENTBOARD_RATE_LIMIT_IP", "5:20".to_owned()),
        ("EVENTBOARD_TRUSTED_HOPS", "1".to_owned()),
    ];
    let stack = Stack::start(&settings).await;
    let me = |address: &str| stack.get("/auth/me").header("X-Forwarded-For", format!("6.6.6.6, {address}"));
    let header = |answer: &reqwest::Response, name: &str| {
        let values = answer.headers().get_all(name).iter();
        values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(", ")
    };
    for left in (0..4).rev() {
        let answer = me("10.1.1.1").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(header(&answer, "ratelimit").contains(&format!("\"user\";r={left};")), "{answer:?}");
        let policy = header(&answer, "ratelimit-policy");
        assert!(policy.contains("\"user\";q=4;w=2") && policy.contains("\"ip\";q=20;w=4"), "{policy}");
    }
    // Wherever they ask from.
    let refused = me("10.1.1.2").send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(
        (header(&refused, "retry-after").as_str(), header(&refused, "content-type").as_str()),
        ("1", "application/problem+json")
    );
    assert!(header(&refused, "ratelimit").contains("\"user\";r=0;"));
    let problem: serde_json::Value = refused.json().await.unwrap();
    assert_eq!((&problem["retryable"], &problem["outcome"]), (&json!(true), &json!("none")), "{problem}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(timed(me("10.1.1.1")).await.status, 200);

    // An address has its quota whoever asks, and whether or not it signs in.
    let wrong = |address: &str| {
        let request = stack.client.get(format!("{}/auth/me", stack.http));
        request.header("X-Forwarded-For", address.to_owned())
    };
    let answers = join_all((0..40).map(|_| timed(wrong("10.2.2.2")))).await;
    let nowhere = stack.client.get(format!("{}/nowhere", stack.http));
    assert_eq!(
        timed(nowhere.header("X-Forwarded-For", "10.2.2.2")).await.status,
        429,
        "also where nothing is"
    );
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert!((20..25).contains(&count(401)) && count(401) + count(429) == 40, "{answers:?}");
    assert_eq!(timed(wrong("10.2.2.3")).await.status, 401, "another address has its own");
    for free in ["/livez", "/readyz", "/health"] {
        let asked = stack.client.get(format!("{}{free}", stack.http)).header("X-Forwarded-For", "10.2.2.2");
        assert_eq!(timed(asked).await.status, 200, "{free}");
    }
    assert!(stack.metrics().await.contains("rate_limit_user"));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_requests_as_may_be_are_under_way_and_the_next_is_refused_at_once() {
    let stack = Stack::start(&[("EVENTBOARD_MAX_IN_FLIGHT", "4".to_owned())]).await;
    let worker = stack.events_worker(&[]).await;
    worker.pause();
    let stalled = join_all((0..12).map(|_| timed(stack.look_up().header("Prefer", "wait=1"))));
    let writes = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let write = timed(stack.create("Beside").header("Prefer", "wait=1")).await;
        let other = timed(stack.get("/auth/me")).await;
        (write, other)
    };
    let (answers, (write, other)) = tokio::join!(stalled, writes);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    assert_eq!(refused.len(), 8, "{answers:?}");
    for answer in refused {
        assert!(answer.took < Duration::from_millis(100), "{answer:?}");
        assert!(answer.body["type"].as_str().unwrap().ends_with(":overloaded"), "{answer:?}");
        assert_eq!(answer.retry_after, Some(1));
    }
    // Places of their own: writes, and other services.
    assert_eq!((write.status, other.status), (504, 200), "{write:?}");
    worker.resume();
}

/// Opens connections to `address` as fast as it can, says `what` on each, and keeps them for as long as the
/// server does, until `stop`. Counts those the server has closed.
async fn flood(address: String, what: &'static [u8], drip: bool, stop: Arc<AtomicBool>) -> usize {
    let closed = Arc::new(AtomicUsize::new(0));
    let holders = (0..200).map(|_| {
        let (address, stop, closed) = (address.clone(), Arc::clone(&stop), Arc::clone(&closed));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut stream) = TcpStream::connect(&address).await else { continue };
                let mut answer = [0; 1024];
                if stream.write_all(what).await.is_err() {
                    continue;
                }
                loop {
                    let pause = Duration::from_millis(100);
                    match tokio::time::timeout(pause, stream.read(&mut answer)).await {
                        Ok(Ok(0) | Err(_)) => {
                            closed.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                        Ok(Ok(_)) => {}
                        Err(_) if stop.load(Ordering::Relaxed) => break,
                        Err(_) if drip && stream.write_all(b" ").await.is_err() => break,
                        Err(_) => {}
                    }
                }
                // As an attacker would who has patience, not a faster machine.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    });
    join_all(holders).await;
    closed.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_connections_do_not_keep_others_out() {
    // Far fewer places than the flood takes, and more time than the test has: what makes room is not a timeout.
    let settings = [("EVENTBOARD_MAX_CONNECTIONS", "150".to_owned())];
    let stack = Stack::start(&settings).await;
    let _worker = stack.events_worker(&[]).await;
    assert!(stack.works().await);
    // Flooded for comparison: a flood takes as much of this machine wherever it goes.
    let other = stack.compose.up_as("gateway", &program("gateway").await, &settings).await;
    let (here, elsewhere) = (stack.http.clone(), other.http().await);
    // Each on a connection of its own, which has to find a place.
    let visits = async || {
        let mut times = Vec::new();
        for _ in 0..150 {
            let fresh = Client::new();
            let request = fresh.get(format!("{}/events?limit=5", stack.http)).bearer_auth(&stack.token);
            let answer = timed(request).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            times.push(answer.took);
        }
        median(times)
    };
    let visits_during = async |target: &str, what, drip| {
        let address = target.strip_prefix("http://").unwrap().to_owned();
        let stop = Arc::new(AtomicBool::new(false));
        let flooding = tokio::spawn(flood(address, what, drip, Arc::clone(&stop)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let took = visits().await;
        stop.store(true, Ordering::Relaxed);
        (took, flooding.await.unwrap())
    };
    let floods: [(&str, &'static [u8], bool); 3] = [
        ("idle", b"", false),
        ("slow heads", b"GET /events HTTP/1.1\r\nHost: x\r\nX-Slow: ", true),
        (
            "slow bodies",
            b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n",
            true,
        ),
    ];
    for (name, what, drip) in floods {
        let (quiet, _) = visits_during(&elsewhere, what, drip).await;
        let (flooded, closed) = visits_during(&here, what, drip).await;
        assert!(closed > 50, "{name}: only {closed} were closed");
        let limit = (3 * quiet).max(Duration::from_millis(30));
        assert!(flooded < limit, "{name}: {flooded:?} in the flood, {quiet:?} beside it");
    }
}
