//! What clients see while workers, broker, network and databases fail, with real processes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::compose::Compose;
use crate::harness::eventually;
use crate::harness::process::{Process, program};
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::stack::{Stack, Timed, median, timed};

/// A refusal that comes at once.
const AT_ONCE: Duration = Duration::from_millis(10);

/// Asks many times in a row, and checks that each is refused because something is away.
async fn refusals(stack: &Stack) -> Duration {
    let mut times = Vec::new();
    for _ in 0..60 {
        let answer = timed(stack.look_up()).await;
        assert_eq!((answer.status, &answer.body["outcome"]), (503, &json!("none")), "{answer:?}");
        assert!(answer.body["type"].as_str().unwrap().ends_with(":unavailable"), "{answer:?}");
        assert!(answer.retry_after.is_some());
        times.push(answer.took);
    }
    median(times)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_or_a_broker_the_answer_is_503_at_once_and_their_return_is_noticed() {
    let mut stack = Stack::start(&[]).await;
    let took = refusals(&stack).await;
    assert!(took < AT_ONCE, "without a worker: {took:?}");
    assert_eq!(timed(stack.get("/readyz")).await.status, 200);
    eventually("a worker's absence is a warning", || async { stack.health().await["status"] == "warn" })
        .await;
    assert_eq!(stack.check("events-worker").await, "fail");
    let health = timed(stack.get("/health")).await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("warn")), "{health:?}");
    eventually("the auth database is told of", || async { stack.check("auth-database").await == "pass" })
        .await;

    let worker = stack.events_worker(&[]).await;
    assert_eq!(timed(stack.look_up()).await.status, 404, "the worker's return goes unnoticed");
    eventually("everything passes", || async { stack.health().await["status"] == "pass" }).await;

    stack.compose.kill_broker().await;
    let took = refusals(&stack).await;
    assert!(took < AT_ONCE, "without a broker: {took:?}");
    let ghosts = join_all((0..20).map(|_| timed(stack.create("Ghost")))).await;
    assert!(ghosts.iter().all(|answer| answer.status == 503), "{ghosts:?}");
    for unready in [format!("{}/readyz", stack.http), format!("{}/readyz", worker.admin().await)] {
        assert_eq!(timed(stack.client.get(unready)).await.status, 503);
    }
    assert_eq!(timed(stack.get("/livez")).await.status, 200);
    eventually("the broker's absence is told", || async { stack.health().await["status"] == "fail" }).await;

    stack.compose.start_broker().await;
    let back = Instant::now();
    eventually("requests are answered again", || async { stack.works().await }).await;
    assert!(back.elapsed() < Duration::from_secs(5), "it took {:?}", back.elapsed());
    let created = timed(stack.create("Real")).await;
    assert_eq!(created.status, 201, "{created:?}");
    let found = timed(stack.get("/events?search=ghost")).await;
    assert_eq!(found.body["meta"]["total"], 0, "what was refused was done later: {found:?}");
    // The same processes all the time: each said once that it was ready.
    for service in [&stack.gateway, &stack.auth, &worker] {
        assert_eq!(service.process.lines_with("\"message\":\"ready\"").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_worker_costs_the_deadline_until_the_breaker_opens() {
    let stack = Stack::start(&[]).await;
    let worker = stack.events_worker(&[]).await;
    assert!(stack.works().await);
    worker.pause();
    let within = |request: reqwest::RequestBuilder| timed(request.header("Prefer", "wait=1"));
    let (stalled, late) = tokio::join!(
        join_all((0..9).map(|_| within(stack.look_up()))),
        join_all((0..3).map(|_| within(stack.create("Late")))),
    );
    for answer in stalled.iter().chain(&late) {
        assert_eq!(answer.status, 504, "{answer:?}");
    }
    let took = median(stalled.iter().map(|answer| answer.took).collect());
    assert!((900..=1100).contains(&took.as_millis()), "{took:?} for a deadline of one second");
    // That these clients did not wait for longer says nothing about the worker.
    assert_eq!(within(stack.look_up()).await.status, 504);
    assert_eq!(stack.check("breakers").await, "pass");
    let patient = tokio::spawn(join_all((0..9).map(|_| timed(stack.look_up())).collect::<Vec<_>>()));
    eventually("the breaker opens", || async {
        !stack.gateway.process.lines_with("a breaker opened").is_empty()
    })
    .await;

    let mut fast = Vec::new();
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let answer = within(stack.look_up()).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!((1..=3).contains(&answer.retry_after.unwrap()), "{answer:?}");
        fast.push(answer.took);
    }
    assert!(median(fast) < AT_ONCE);
    eventually("the breaker is told of", || async { stack.check("breakers").await == "fail" }).await;
    assert_eq!(stack.health().await["status"], "warn");
    let state = |metrics: &str| {
        metrics.lines().any(|line| {
            line.starts_with("eventboard_breaker_state")
                && line.contains("\"events.get\"")
                && line.ends_with(" 2")
        })
    };
    assert!(state(&stack.metrics().await), "{}", stack.metrics().await);
    // Other subjects go on.
    assert_eq!(timed(stack.get("/auth/me")).await.status, 200);

    for answer in patient.await.unwrap() {
        assert_eq!(answer.status, 504, "{answer:?}");
    }
    worker.resume();
    let said = |text| stack.gateway.process.lines_with(text).len();
    eventually("it closes", || async {
        let works = stack.works().await && stack.check("breakers").await == "pass";
        works && said("a breaker closed") > 0
    })
    .await;
    assert!(said("a breaker opened") >= 1);
    assert_eq!(said("a breaker closed"), 1);
    // What nobody waits for any more is not begun.
    eventually("the late messages are refused", || async {
        worker.process.lines_with("\"status\":504").len() >= stalled.len() + late.len()
    })
    .await;
    let found = timed(stack.get("/events?search=late")).await;
    assert_eq!(found.body["meta"]["total"], 0, "{found:?}");
}

/// Answers `events.get` in the worker's place, as `answer` says for each message; `None` is silence. Returns how
/// many messages it has seen.
async fn stand_in(
    stack: &Stack,
    answer: impl Fn(&async_nats::Message, usize) -> Option<(HeaderMap, Value)> + Send + Sync + 'static,
) -> Arc<AtomicUsize> {
    let client = stack.compose.nats("events-worker").await;
    let mut requests = client.queue_subscribe("events.*", "events".to_owned()).await.unwrap();
    client.flush().await.unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            if let Some((headers, body)) = answer(&request, number) {
                let inbox = request.reply.unwrap();
                client.publish_with_headers(inbox, headers, body.to_string().into()).await.unwrap();
            }
        }
    });
    eventually("the stand-in is asked", || async { timed(stack.look_up()).await.status != 503 }).await;
    seen.store(0, Ordering::SeqCst);
    seen
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    pairs.iter().for_each(|(name, value)| headers.insert(*name, *value));
    headers
}

/// A success.
fn done() -> Option<(HeaderMap, Value)> {
    Some((headers(&[("X-Status", "200")]), json!({ "id": "x" })))
}

/// A refusal after which nothing was done.
fn not_done(kind: &str) -> Option<(HeaderMap, Value)> {
    let body = json!({ "type": format!("urn:eventboard:problem:{kind}"), "outcome": "none" });
    let named = [("Nats-Service-Error-Code", "503"), ("X-Executed", "false"), ("X-Problem", kind)];
    Some((headers(&named), body))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_clients_trouble_is_nobody_elses() {
    let stack = Stack::start(&[]).await;
    let _seen = stand_in(&stack, |message, _| {
        let problem = |kind: &str, status| {
            let body = json!({ "type": format!("urn:eventboard:problem:{kind}"), "outcome": "none" });
            Some((headers(&[("Nats-Service-Error-Code", status), ("X-Problem", kind)]), body))
        };
        match message.headers.as_ref()?.get("X-Correlation-ID")?.as_str() {
            "contended" => not_done("contended"),
            "large" => problem("reply-too-large", "500"),
            "in-progress" => problem("idempotency-in-progress", "409"),
            "throttled" => problem("rate-limited", "429"),
            "silence" => None,
            _ => done(),
        }
    })
    .await;
    for (trouble, status) in
        [("contended", 503), ("large", 500), ("in-progress", 409), ("throttled", 429), ("silence", 504)]
    {
        let troubled = (0..40).map(|_| {
            let request = stack.look_up().header("X-Correlation-ID", trouble);
            timed(request.header("Prefer", if trouble == "silence" { "wait=2" } else { "wait=4" }))
        });
        for answer in join_all(troubled).await {
            assert_eq!(answer.status, status, "{trouble}: {answer:?}");
        }
        let other = timed(stack.look_up()).await;
        assert_eq!(other.status, 200, "{trouble} is held against others: {other:?}");
    }
    assert!(stack.gateway.process.lines_with("a breaker opened").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_changes_to_one_event_close_it_to_nobody_else() {
    let stack = Stack::start(&[]).await;
    let _worker = stack.events_worker(&[]).await;
    let patch = |id: &str, token: &str, title: String| {
        let request = stack.client.patch(format!("{}/events/{id}", stack.http)).bearer_auth(token);
        timed(request.json(&json!({ "title": title })))
    };
    let id = timed(stack.create("Contended")).await.body["id"].as_str().unwrap().to_owned();
    for round in 0..3 {
        let changes = (0..20).map(|number| patch(&id, &stack.token, format!("Title {round} {number}")));
        for answer in join_all(changes).await {
            assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        }
    }
    let visitor = crate::harness::walkthrough::Visitor::new(&stack.http);
    let other = visitor.login("user@acme.com").await;
    let mine = visitor.create(&other).await;
    let changed = patch(&mine, &other, "Mine".to_owned()).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brownout_is_not_amplified() {
    // Failures at which breakers open, refusals for want of room, and so few of them that no breaker opens.
    for (kind, one_of) in [("unavailable", 2), ("overloaded", 2), ("overloaded", 3)] {
        let stack = Stack::start(&[]).await;
        let seen = stand_in(
            &stack,
            move |_, number| if number.is_multiple_of(one_of) { not_done(kind) } else { done() },
        )
        .await;
        // Of what the stand-in was asked before, nothing counts any more.
        tokio::time::sleep(Duration::from_secs(1)).await;
        seen.store(0, Ordering::SeqCst);
        let clients = (0..8).map(|_| async {
            let mut answered = 0;
            for _ in 0..250 {
                answered += usize::from(timed(stack.look_up()).await.status == 200);
            }
            answered
        });
        let answered: usize = join_all(clients).await.into_iter().sum();
        if one_of == 3 {
            // Without repetitions it would be 1,333.
            assert!(answered > 1400, "{answered} of 2000 were answered");
        }
        let amplification = seen.load(Ordering::SeqCst) as f64 / 2000.0;
        assert!(amplification <= 1.1, "{kind}: {amplification} messages per request");
        assert!(stack.metrics().await.contains("eventboard_retries_total"), "nothing was sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gets_lost_is_sent_again_where_that_is_safe() {
    let stack = Stack::start(&[]).await;
    let lost = Arc::new(std::sync::Mutex::new(HashMap::<String, usize>::new()));
    let times = Arc::clone(&lost);
    // Silent to the first message of each request.
    let _seen = stand_in(&stack, move |message, _| {
        let id = message.headers.as_ref()?.get("X-Correlation-ID")?.as_str().to_owned();
        let mut times = times.lock().unwrap();
        let count = times.entry(id).or_default();
        *count += 1;
        if *count > 1 { done() } else { None }
    })
    .await;
    let read = stack.look_up().header("X-Correlation-ID", "read");
    let write = stack.create("Lost").header("X-Correlation-ID", "write");
    let hurried = stack.look_up().header("X-Correlation-ID", "hurried").header("Prefer", "wait=2");
    let (read, write, hurried) = tokio::join!(timed(read), timed(write), timed(hurried));
    for (name, answer, patience) in [("read", read, 2000), ("write", write, 4000), ("hurried", hurried, 800)]
    {
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        assert!((patience..patience + 900).contains(&answer.took.as_millis()), "{name}: {answer:?}");
        assert_eq!(lost.lock().unwrap()[name], 2);
    }
    // The broker answers when nobody listens; a login that was delivered may have happened.
    let auth = &stack.auth;
    auth.pause();
    let credentials = json!({ "email": "user@acme.com", "password": "Password123!" });
    let login = stack.client.post(format!("{}/auth/login", stack.http)).json(&credentials);
    let answer = timed(login.header("Prefer", "wait=1").header("X-Correlation-ID", "login")).await;
    assert_eq!((answer.status, &answer.body["outcome"]), (504, &json!("unknown")), "{answer:?}");
    assert!(
        stack.gateway.process.lines_with("sent again").iter().all(|line| line["correlation_id"] != "login")
    );
    auth.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_stays_unknown() {
    let stack = Stack::start(&[]).await;
    let times = std::sync::Mutex::new(HashMap::<String, usize>::new());
    // A commit without an answer first; after that, a worker that has no room.
    let seen = stand_in(&stack, move |message, _| {
        let id = message.headers.as_ref()?.get("X-Correlation-ID")?.as_str().to_owned();
        let mut times = times.lock().unwrap();
        let count = times.entry(id).or_default();
        *count += 1;
        if *count > 1 {
            return not_done("overloaded");
        }
        let body = json!({ "type": "urn:eventboard:problem:connection-lost", "outcome": "unknown" });
        Some((headers(&[("Nats-Service-Error-Code", "504"), ("X-Problem", "connection-lost")]), body))
    })
    .await;
    let answer = timed(stack.create("Unknown")).await;
    assert_eq!(seen.load(Ordering::SeqCst), 3, "it was not sent again");
    assert_eq!((answer.status, &answer.body["outcome"]), (504, &json!("unknown")), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_there_a_moment_ago_is_waited_for() {
    let stack = Stack::start(&[]).await;
    let client = stack.compose.nats("events-worker").await;
    let subscribe = async || {
        let requests = client.queue_subscribe("events.*", "events".to_owned()).await.unwrap();
        client.flush().await.unwrap();
        requests
    };
    let answer_one = async |requests: &mut async_nats::Subscriber| {
        let request = requests.next().await.unwrap();
        let (headers, body) = done().unwrap();
        client.publish_with_headers(request.reply.unwrap(), headers, body.to_string().into()).await.unwrap();
    };
    // The link is not fresh any more: what counts is that somebody answered.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut requests = subscribe().await;
    let (answer, ()) = tokio::join!(timed(stack.look_up()), answer_one(&mut requests));
    assert_eq!(answer.status, 200);
    requests.unsubscribe().await.unwrap();
    client.flush().await.unwrap();
    let back = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        let mut requests = subscribe().await;
        answer_one(&mut requests).await;
    };
    let (answer, ()) = tokio::join!(timed(stack.look_up()), back);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.took >= Duration::from_millis(120), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_still_under_way_is_waited_for_whatever_else_is_tried() {
    let stack = Stack::start(&[]).await;
    // Takes one message, and is gone before it is sent again; its answer comes late.
    let client = stack.compose.nats("events-worker").await;
    let mut requests = client.queue_subscribe("events.*", "events".to_owned()).await.unwrap();
    client.flush().await.unwrap();
    let slow = async {
        let request = requests.next().await.unwrap();
        requests.unsubscribe().await.unwrap();
        tokio::time::sleep(Duration::from_millis(2200)).await;
        let (headers, body) = done().unwrap();
        client.publish_with_headers(request.reply.unwrap(), headers, body.to_string().into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(timed(stack.create("Slow").header("Prefer", "wait=4")), slow);
    assert_eq!(answer.status, 200, "{answer:?}");

    let mut requests = client.queue_subscribe("events.*", "events".to_owned()).await.unwrap();
    client.flush().await.unwrap();
    let gone = async {
        requests.next().await.unwrap();
        requests.unsubscribe().await.unwrap();
    };
    let (answer, ()) = tokio::join!(timed(stack.create("Gone").header("Prefer", "wait=3")), gone);
    assert_eq!((answer.status, &answer.body["outcome"]), (504, &json!("unknown")), "{answer:?}");
    assert!(!stack.gateway.process.lines_with("sent again").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_before_its_reply_costs_a_wait_and_no_mark_of_a_replay() {
    let stack = Stack::start(&[]).await;
    let dying = stack.compose.up_failing("events-worker", "before-reply=return", &[]).await;
    // The first message ends the one worker that there is; whoever is there by the time it is sent again
    // finds the answer that was kept.
    let create = stack.create("Kept").header("Idempotency-Key", "dies");
    let (answer, worker) = tokio::join!(timed(create), async {
        let mut dying = dying;
        assert!(!dying.process.ended().await);
        stack.events_worker(&[]).await
    });
    assert_eq!((answer.status, answer.replayed), (201, false), "{answer:?}");
    let again = timed(stack.create("Kept").header("Idempotency-Key", "dies")).await;
    assert_eq!((again.status, again.replayed, &again.body), (201, true, &answer.body), "{again:?}");
    let found = timed(stack.get("/events?search=kept")).await;
    assert_eq!(found.body["meta"]["total"], 1, "{found:?}");
    drop(worker);
}

/// The process's memory in use, in kB.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_timed_out_requests_leave_nothing_behind() {
    let settings = [
        // With breakers, twenty thousand would never be sent.
        ("EVENTBOARD_BREAKERS", "false".to_owned()),
        ("EVENTBOARD_MAX_IN_FLIGHT", "4000".to_owned()),
        // What glibc keeps for each thread it has met is no leak.
        ("MALLOC_ARENA_MAX", "2".to_owned()),
    ];
    let stack = Stack::start(&settings).await;
    let seen = stand_in(&stack, |message, _| {
        let hurried = message.headers.as_ref()?.get("X-Correlation-ID")?.as_str() == "silence";
        if hurried { None } else { done() }
    })
    .await;
    let round = async |clients: usize| {
        let timed_out = join_all((0..clients).map(|_| {
            let silence = stack.look_up().header("X-Correlation-ID", "silence");
            timed(silence.header("Prefer", "wait=1"))
        }));
        let expected = |answer: &Timed| answer.status == 504;
        timed_out.await.iter().filter(|answer| expected(answer)).count()
    };
    // Until the allocator has what it keeps, which takes longer where requests meet in other orders. What leaks goes on
    // growing: the last look is as sharp as the one behind it.
    let mut before = 0;
    for warm_up in 1..=60 {
        assert_eq!(round(1000).await, 1000);
        if warm_up % 5 == 0 {
            let now = resident(&stack.gateway.process);
            if warm_up >= 15 && now < before + before / 64 {
                break;
            }
            before = now;
        }
    }
    let before = resident(&stack.gateway.process);
    let mut timed_out = 0;
    for _ in 0..20 {
        timed_out += round(1000).await;
    }
    assert_eq!(timed_out, 20_000);
    assert!(seen.load(Ordering::SeqCst) >= 35_000, "they were not sent");
    let after = resident(&stack.gateway.process);
    assert!(after < before + before / 16, "{before} kB before, {after} kB after");
}

/// The variables that lead a service to the broker through `proxy`.
fn through(proxy: &Proxy) -> [(&'static str, String); 1] {
    [("EVENTBOARD_NATS_URL", format!("nats://127.0.0.1:{}", proxy.port()))]
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_between_gateway_and_broker_is_survived_without_a_restart() {
    let compose = Compose::start().await;
    let proxy = Proxy::before(compose.broker.port()).await;
    let stack = Stack::on(compose, &through(&proxy)).await;
    let _worker = stack.events_worker(&[]).await;
    assert!(stack.works().await);
    let back = async |what: &str| {
        let healed = Instant::now();
        eventually(what, || async { stack.works().await }).await;
        assert!(healed.elapsed() < Duration::from_secs(5), "{what}: {:?}", healed.elapsed());
        eventually("the broker passes", || async { stack.check("broker").await == "pass" }).await;
    };

    // Cut in the middle of things: nobody is told.
    for _ in 0..3 {
        let requests = (0..8).map(|number| {
            let request = if number % 2 == 0 { stack.create("Cut") } else { stack.get("/events") };
            timed(request)
        });
        let cut = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            proxy.cut();
        };
        let (answers, ()) = tokio::join!(join_all(requests), cut);
        let failed: Vec<_> = answers.iter().filter(|answer| answer.status >= 300).collect();
        assert!(failed.is_empty(), "{failed:?}");
        eventually("the link is back", || async { timed(stack.get("/readyz")).await.status == 200 }).await;
    }
    proxy.set(Weather::Slow(Duration::from_millis(30)));
    let slow = timed(stack.look_up()).await;
    assert_eq!(slow.status, 404, "{slow:?}");
    assert!(slow.took >= Duration::from_millis(60), "{slow:?}");

    // Nothing arrives, and nobody says so.
    proxy.set(Weather::BlackHole);
    let dark = Instant::now();
    let answer = timed(stack.look_up().header("Prefer", "wait=1")).await;
    assert!(matches!(answer.status, 503 | 504), "{answer:?}");
    eventually("it is noticed", || async { timed(stack.get("/readyz")).await.status == 503 }).await;
    assert!(dark.elapsed() < Duration::from_secs(10), "noticed after {:?}", dark.elapsed());
    eventually("requests are refused at once", || async {
        let answer = timed(stack.look_up()).await;
        answer.status == 503 && answer.took < AT_ONCE
    })
    .await;
    proxy.set(Weather::Fair);
    back("after the dark").await;

    // The broker's side is gone, ours is not told; a new connection would work.
    proxy.lose_server();
    let lost = Instant::now();
    eventually("it is noticed and mended", || async {
        timed(stack.look_up().header("Prefer", "wait=1")).await.status == 404
    })
    .await;
    assert!(lost.elapsed() < Duration::from_secs(10), "mended after {:?}", lost.elapsed());
    proxy.set(Weather::Closed);
    let losses = || stack.gateway.process.lines_with("lost the connection to NATS").len();
    let before = losses();
    proxy.cut();
    eventually("the loss is noticed", || async { losses() > before }).await;
    assert_eq!(
        timed(stack.get("/readyz")).await.status,
        200,
        "a moment without a link is no reason to leave"
    );
    eventually("the gateway is not ready", || async { timed(stack.get("/readyz")).await.status == 503 })
        .await;
    proxy.set(Weather::Fair);
    back("after refused connections").await;
    assert_eq!(stack.gateway.process.lines_with("\"message\":\"ready\"").len(), 1);
    let found = timed(stack.get("/events?search=cut&limit=100")).await;
    assert_eq!(found.body["meta"]["total"], 12, "each write took effect once");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_between_a_worker_and_the_broker_is_survived_without_a_restart() {
    let stack = Stack::start(&[]).await;
    let proxy = Proxy::before(stack.compose.broker.port()).await;
    let worker = stack.events_worker(&through(&proxy)).await;
    assert!(stack.works().await);
    let ready = format!("{}/readyz", worker.admin().await);
    for weather in [Weather::BlackHole, Weather::Closed] {
        proxy.set(weather);
        if weather == Weather::Closed {
            proxy.cut();
        }
        let dark = Instant::now();
        eventually("the worker notices", || async { timed(stack.client.get(&ready)).await.status == 503 })
            .await;
        assert!(dark.elapsed() < Duration::from_secs(10), "noticed after {:?}", dark.elapsed());
        proxy.set(Weather::Fair);
        eventually("the worker is back", || async {
            timed(stack.look_up().header("Prefer", "wait=1")).await.status == 404
        })
        .await;
    }
    assert_eq!(worker.process.lines_with("\"message\":\"ready\"").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_the_dark_is_told_and_its_return_noticed() {
    let stack = Stack::start(&[]).await;
    let proxy = Proxy::before(stack.compose.postgres.port()).await;
    let url = format!("postgres://events@127.0.0.1:{}/events", proxy.port());
    let worker = stack.events_worker(&[("EVENTBOARD_DATABASE_URL", url)]).await;
    assert!(stack.works().await);
    eventually("the database passes", || async { stack.check("events-database").await == "pass" }).await;
    for weather in [Weather::BlackHole, Weather::Closed] {
        proxy.set(weather);
        if weather == Weather::Closed {
            proxy.cut();
        }
        let answers = join_all(
            (0..4).map(|number| timed(stack.create(&format!("Dark {number}")).header("Prefer", "wait=3"))),
        );
        for answer in answers.await {
            let said = worker.process.lines_with("internal failure");
            assert!(matches!(answer.status, 503 | 504), "{answer:?} {said:?}");
            assert!(answer.took < Duration::from_millis(3600), "{answer:?}");
        }
        eventually("it is told", || async { stack.check("events-database").await == "fail" }).await;
        assert_eq!(stack.health().await["status"], "warn");
        let own = timed(stack.client.get(format!("{}/health", worker.admin().await))).await;
        assert_eq!((own.status, &own.body["checks"]["database"]["status"]), (503, &json!("fail")), "{own:?}");
        // Who restarts a worker whose database is away gains nothing.
        let live = timed(stack.client.get(format!("{}/readyz", worker.admin().await))).await;
        assert_eq!(live.status, 200);
        proxy.set(Weather::Fair);
        eventually("it is noticed", || async {
            timed(stack.create("Light").header("Prefer", "wait=2")).await.status == 201
        })
        .await;
    }
    assert_eq!(worker.process.lines_with("\"message\":\"ready\"").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_without_a_word_keeps_no_connection() {
    let stack = Stack::start(&[]).await;
    let proxy = Proxy::before(stack.compose.postgres.port()).await;
    let settings = [
        ("EVENTBOARD_DATABASE_URL", format!("postgres://events@127.0.0.1:{}/events", proxy.port())),
        ("EVENTBOARD_DATABASE_CONNECTIONS", "1".to_owned()),
    ];
    let _worker = stack.events_worker(&settings).await;
    assert!(stack.works().await);
    // As often as the worker has connections, and once more.
    for round in 0..3 {
        proxy.set(Weather::Slow(Duration::from_millis(20)));
        // In the middle of a transaction, which takes several round trips.
        let lose = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.lose_server();
        };
        let write = timed(stack.create("Lost").header("Prefer", "wait=1"));
        let (answer, ()) = tokio::join!(write, lose);
        assert!(matches!(answer.status, 503 | 504), "round {round}: {answer:?}");
        proxy.set(Weather::Fair);
        eventually("there is a connection again", || async {
            timed(stack.create("Found").header("Prefer", "wait=2")).await.status == 201
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_says_so() {
    let compose = Compose::start().await;
    let mut environment = compose.environment("events-worker");
    let (port, admin) = (compose.broker.port(), crate::harness::ports::free_port());
    let proxy = Proxy::before(port).await;
    proxy.set(Weather::Closed);
    environment.insert("EVENTBOARD_NATS_URL".to_owned(), format!("nats://127.0.0.1:{}", proxy.port()));
    environment.insert("EVENTBOARD_ADMIN".to_owned(), format!("127.0.0.1:{admin}"));
    let _worker = Process::start(&program("events-worker").await, &[], environment);
    let client = reqwest::Client::new();
    let ask = async |path: &str| client.get(format!("http://127.0.0.1:{admin}{path}")).send().await;
    eventually("its admin port answers", || async { ask("/livez").await.is_ok() }).await;
    assert_eq!(ask("/livez").await.unwrap().status(), 200);
    assert_eq!(ask("/readyz").await.unwrap().status(), 503);
    let health = ask("/health").await.unwrap();
    assert_eq!(health.status(), 503);

    let mut environment = compose.environment("gateway");
    environment.insert("EVENTBOARD_NATS_URL".to_owned(), format!("nats://127.0.0.1:{}", proxy.port()));
    let http = crate::harness::ports::free_port();
    environment.insert("EVENTBOARD_HTTP".to_owned(), format!("127.0.0.1:{http}"));
    let gateway = Process::start(&program("gateway").await, &[], environment);
    let ask = async |path: &str| client.get(format!("http://127.0.0.1:{http}{path}")).send().await;
    eventually("its port answers", || async { ask("/livez").await.is_ok() }).await;
    assert_eq!(ask("/readyz").await.unwrap().status(), 503);
    assert!(gateway.lines_with("\"message\":\"ready\"").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_carries_nothing_ends_the_process() {
    // A broker that takes everything the gateway sends itself, and gives nothing back.
    let directory = tempfile::tempdir().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("nats.conf")).unwrap();
    let echo = "\"_INBOX_gateway.*.echo.*\"";
    assert!(text.contains(echo));
    std::fs::write(directory.path().join("nats.conf"), text.replace(echo, "\"nowhere\"")).unwrap();
    let secrets = "deploy/sample-secrets";
    std::fs::create_dir_all(directory.path().join(secrets)).unwrap();
    let passwords = format!("{secrets}/nats-passwords.conf");
    std::fs::copy(root.join(&passwords), directory.path().join(&passwords)).unwrap();
    let file = directory.path().join("nats.conf");
    let broker = crate::harness::broker::start_configured(&file, directory.path(), None, &[]).await;
    let environment = [
        ("EVENTBOARD_NATS_URL", broker.url()),
        ("EVENTBOARD_NATS_USER", "gateway".to_owned()),
        ("EVENTBOARD_NATS_PASSWORD", crate::harness::broker::password("gateway")),
        ("EVENTBOARD_HTTP", "127.0.0.1:0".to_owned()),
        ("EVENTBOARD_ADMIN", "127.0.0.1:0".to_owned()),
    ];
    let mut gateway = Process::start(&program("gateway").await, &[], environment);
    eventually("it is connected", || async { !gateway.lines_with("connected to NATS").is_empty() }).await;
    let connected = Instant::now();
    let status = gateway.status().await;
    assert_eq!(status.code(), Some(1), "{status:?}");
    let took = connected.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    assert_eq!(gateway.lines_with("carries no messages").len(), 2, "once, and once with a new link");
}
