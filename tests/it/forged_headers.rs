//! Messages no library would send: header blocks that break a client's connection, written to the broker by hand.
//! Whoever is hit by one works again within seconds.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::broker_permissions::Raw;
use crate::harness::process::Runner;
use crate::harness::walkthrough::Visitor;

/// How long a service may be away after a message.
const RECOVERY: Duration = Duration::from_secs(5);

/// Header blocks, without the empty line at their end.
fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let block = |lines: &str| format!("NATS/1.0\r\n{lines}").into_bytes();
    let mut corpus = vec![
        ("a bare CR", block("X-A: a\rb\r\n")),
        ("a bare LF", block("X-A: a\nb\r\n")),
        ("no colon", block("X-A\r\n")),
        ("an empty name", block(": a\r\n")),
        ("a name that is not ASCII", block("X-Ä: a\r\n")),
        ("a NUL", block("X-A: a\0b\r\n")),
        ("a space before the colon", block("X-A : a\r\n")),
        ("a folded line", block("X-A: a\r\n b\r\n")),
        ("no version", b"X-A: a\r\n".to_vec()),
        ("another version", b"NATS/9.9\r\nX-A: a\r\n".to_vec()),
        ("a status that is no number", b"NATS/1.0 abc\r\n".to_vec()),
        ("a status that is none", b"NATS/1.0 99999\r\n".to_vec()),
        ("a status of the broker's", b"NATS/1.0 503 No Responders\r\n".to_vec()),
        ("nothing at all", b"".to_vec()),
        ("a long name", block(&format!("{}: a\r\n", "X".repeat(3000)))),
        ("many headers", block(&"X-A: a\r\n".repeat(3000))),
        ("two correlation ids", block("X-Correlation-ID: a\r\nx-correlation-id: b\r\n")),
        (
            "a trace of the broker's",
            block("Nats-Trace-Dest: auth.login\r\nNats-Msg-Id: 1\r\nNats-Rollup: all\r\n"),
        ),
    ];
    corpus.push(("no UTF-8", [b"NATS/1.0\r\nX-A: ".as_slice(), &[0xff, 0xfe, 0x80], b"\r\n"].concat()));
    corpus
}

/// `HPUB`: the length of the header block, and of all.
fn message(subject: &str, reply: &str, block: &[u8], payload: &str) -> Vec<u8> {
    let header = block.len() + 2;
    let head = format!("HPUB {subject} {reply} {header} {}\r\n", header + payload.len());
    [head.as_bytes(), block, b"\r\n", payload.as_bytes(), b"\r\n"].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_hit_by_a_forged_header_works_again_within_seconds() {
    let directory = tempfile::tempdir().unwrap();
    // Two gateways would hide each other's trouble: one of everything.
    let settings =
        [("EVENTBOARD_HTTP", "127.0.0.1:0"), ("EVENTBOARD_ADMIN", "127.0.0.1:0"), ("RUST_LOG", "warn")];
    let runner = Runner::start(directory.path(), &settings).await;
    let visitor = Visitor { patience: Duration::from_secs(20), ..Visitor::new(&runner.ready.http) };
    let token = visitor.login("user@acme.com").await;
    let port: u16 = runner.ready.nats.rsplit(':').next().unwrap().parse().unwrap();
    let id = visitor.create(&token).await;
    for (name, block) in corpus() {
        let bearer = [block.as_slice(), format!("Authorization: Bearer {token}\r\n").as_bytes()].concat();
        for (subject, payload) in [
            ("events.list", "{}"),
            ("auth.me", "{}"),
            ("$SRV.PING", ""),
            // As a worker that has been taken over could: to whoever waits for replies, and to what is kept.
            ("_INBOX_gateway.x.1", "{}"),
            ("_INBOX_events.x.1", "{}"),
            ("_INBOX_auth.x.1", "{}"),
            ("$KV.revocations.session.00000000-0000-7000-8000-000000000000", ""),
            ("$KV.login-throttle.pair.x", ""),
            ("$KV.idempotency.v1.a.b.c", ""),
        ] {
            let block = if block.starts_with(b"NATS/1.0\r\n") { &bearer } else { &block };
            let mut raw = Raw::connect(port, "", "").await;
            raw.send_bytes(&message(subject, "_INBOX_ops.forged", block, payload)).await;
            raw.heard().await;
        }
        let begun = Instant::now();
        loop {
            let (status, _, body) = visitor.get(&format!("/events/{id}"), &token).await;
            let (me, ..) = visitor.get("/auth/me", &token).await;
            if (status, me) == (200, 200) {
                break;
            }
            assert!(begun.elapsed() < RECOVERY, "{name}: {status} {me} {body} after {:?}", begun.elapsed());
        }
        assert!(begun.elapsed() < RECOVERY, "{name}: {:?}", begun.elapsed());
    }
    // They did reach somebody: connections were lost, and subscriptions ended.
    assert!(!runner.lines_with("lost the connection to NATS").is_empty());
    assert!(!runner.lines_with("starting it again").is_empty());
    let (status, _, written) = visitor.post("/events", &token, &crate::harness::system::event("After")).await;
    assert_eq!(status, 201, "{written}");
    let credentials = json!({ "email": "moderator@acme.com", "password": "Password123!" });
    let (status, ..) = visitor.post("/auth/login", "", &credentials).await;
    assert_eq!(status, 200);
    assert_ne!(visitor.get("/health", "").await.2["status"], Value::Null);
}
