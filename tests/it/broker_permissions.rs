//! What each user of `nats.conf` may do on a live broker, and what nobody may.

use std::path::Path;

use messaging::NatsSettings;
use messaging::provision;
use nats_server::Broker;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::harness::broker;
use crate::harness::system::auth_worker_at;

const USERS: [&str; 5] = ["gateway", "auth-worker", "events-worker", "provision", "ops"];

/// Who may publish where: `+` in the order of [`USERS`]. Whatever is not here is tried below.
const PUBLISH: &str = "
+ . . . +  auth.login
+ . . . +  auth.anything
+ . . . +  events.create
. . . . .  events
. . . . .  events.create.more
. . . . .  domain.events.x
. + + . .  _INBOX_gateway.a.1
+ + + . .  _INBOX_gateway.a.echo.1
. + + . .  _INBOX_ops.a
. + . . .  _INBOX_auth.a
. . + . .  _INBOX_events.a
. . . . .  _INBOX_provision.a
. . . . .  _INBOX.a
+ . . . +  $SRV.PING.auth
+ . . . +  $SRV.PING.events
. . . . +  $SRV.PING
. + . . +  $SRV.PING.auth.ID
. . + . +  $SRV.PING.events.ID
. . . . +  $SRV.STATS.events
. + . . .  $KV.public-keys.jwks
. . . . .  $KV.public-keys.other
. . . . .  $KV.other.jwks
. . + . .  $KV.idempotency.v1.a.b.c
. . + . .  $JS.API.STREAM.MSG.GET.KV_idempotency
. . . . .  $JS.API.STREAM.MSG.DELETE.KV_idempotency
. . . . .  $JS.API.STREAM.PURGE.KV_idempotency
. . . + .  $JS.API.STREAM.CREATE.KV_idempotency
. + . . .  $KV.revocations.session.ID
+ + + . .  $JS.API.STREAM.MSG.GET.KV_revocations
+ + + + +  $JS.API.STREAM.INFO.KV_revocations
. . . . .  $JS.API.STREAM.PURGE.KV_revocations
. . . . .  $JS.API.STREAM.MSG.DELETE.KV_revocations
. + . . .  $KV.login-throttle.pair.HASH
. + . . .  $JS.API.STREAM.MSG.GET.KV_login-throttle
. . . . .  $JS.API.STREAM.PURGE.KV_login-throttle
+ + + . .  $JS.API.STREAM.MSG.GET.KV_public-keys
. . . . .  $JS.API.DIRECT.GET.KV_public-keys.$KV.public-keys.jwks
. . . . .  $JS.API.DIRECT.GET.KV_public-keys
+ + + + +  $JS.API.STREAM.INFO.KV_public-keys
. . . . +  $JS.API.STREAM.INFO.OTHER
. + + + +  $JS.API.STREAM.NAMES
. . . . +  $JS.API.STREAM.LIST
. . . + +  $JS.API.INFO
. . . + .  $JS.API.STREAM.CREATE.KV_public-keys
. . . + .  $JS.API.STREAM.UPDATE.KV_public-keys
. . . . .  $JS.API.STREAM.CREATE.GREEDY
. . . . .  $JS.API.STREAM.DELETE.KV_public-keys
. . . . .  $JS.API.STREAM.PURGE.KV_public-keys
. . . . .  $JS.API.STREAM.MSG.DELETE.KV_public-keys
. . . . .  $JS.API.CONSUMER.CREATE.KV_public-keys
. . . . .  $SYS.REQ.SERVER.PING
. . . . .  $SYS.REQ.ACCOUNT.PING.CONNZ
";

/// Who may subscribe to what, and in which queue group. The broker takes a `>` for one token when it
/// matches it against `*`, which gives nobody a subject that somebody else may publish to.
const SUBSCRIBE: &str = "
. . . . .  auth.login
. + . . .  auth.login auth
. + . . .  auth.* auth
. . . . .  auth.login other
. . . . .  auth.login events
. . . . .  events.create
. . + . .  events.create events
. . + . .  events.* events
. . + . .  events.> events
. . . . .  events.create auth
. . . . .  >
. . . . .  *.*
+ . . . .  _INBOX_gateway.>
. + . . .  _INBOX_auth.>
. . + . .  _INBOX_events.>
. . . + .  _INBOX_provision.>
. . . . +  _INBOX_ops.>
. . . . .  _INBOX.>
+ . . . .  _INBOX_gateway.*.1 spy
. + + . .  $SRV.*
. + . . .  $SRV.*.auth
. . + . .  $SRV.INFO.events.ID
. + + . .  $SRV.>
. . . . .  $KV.>
. . . . .  $KV.public-keys.jwks
. . . . .  $JS.API.>
. . . . .  $SYS.>
";

/// A connection that speaks the protocol itself: no library stands between it and the broker.
pub struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    pub async fn connect(port: u16, user: &str, password: &str) -> Self {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        let mut info = String::new();
        stream.read_line(&mut info).await.unwrap();
        assert!(info.starts_with("INFO "), "{info}");
        let connect = serde_json::json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "user": user, "pass": password,
        });
        let mut raw = Self { stream };
        raw.send(&format!("CONNECT {connect}\r\n")).await;
        raw
    }

    async fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes()).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// What the broker says before it closes the connection.
    async fn last_words(mut self) -> String {
        let mut words = String::new();
        self.stream.read_to_string(&mut words).await.unwrap();
        words
    }

    /// What the broker has said until now: errors, and the subjects of messages.
    pub async fn heard(&mut self) -> Vec<String> {
        self.send("PING\r\n").await;
        let mut heard = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await.unwrap() == 0 {
                heard.push("closed".to_owned());
                return heard;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "PONG" => return heard,
                "MSG" | "HMSG" => {
                    let size: usize = words.last().unwrap().parse().unwrap();
                    let mut payload = vec![0; size + 2];
                    self.stream.read_exact(&mut payload).await.unwrap();
                    heard.push(format!("{} {}", words[1], String::from_utf8_lossy(&payload).trim_end()));
                }
                "-ERR" => heard.push(line.trim_end().to_owned()),
                _ => {}
            }
        }
    }
}

async fn start(directory: &Path) -> Broker {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats.conf");
    broker::start_configured(&file, directory, None, &[]).await
}

async fn connect(broker: &Broker, user: &str) -> Raw {
    let mut raw = Raw::connect(broker.port(), user, &broker::password(user)).await;
    assert_eq!(raw.heard().await, [""; 0], "{user} cannot connect");
    raw
}

/// Tries every line of a table as every user and returns the table as it really is.
async fn tried(broker: &Broker, table: &str, command: impl Fn(&str) -> String) -> String {
    let mut users = Vec::new();
    for user in USERS {
        users.push(connect(broker, user).await);
    }
    let mut found = String::from("\n");
    for line in table.lines().filter(|line| !line.is_empty()) {
        let (_, what) = line.split_once("  ").unwrap();
        let mut marks = Vec::new();
        for raw in &mut users {
            raw.send(&command(what)).await;
            let heard = raw.heard().await;
            let denied = heard.iter().any(|line| line.contains("Permissions Violation"));
            assert!(!heard.iter().any(|line| line == "closed"), "{what}: {heard:?}");
            marks.push(if denied { "." } else { "+" });
        }
        found.push_str(&format!("{}  {what}\n", marks.join(" ")));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn users_may_do_what_the_golden_table_says() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path()).await;
    let published = tried(&broker, PUBLISH, |subject| format!("PUB {subject} 0\r\n\r\n")).await;
    assert_eq!(published, PUBLISH);
    let subscribed = tried(&broker, SUBSCRIBE, |subject| format!("SUB {subject} 7\r\nUNSUB 7\r\n")).await;
    assert_eq!(subscribed, SUBSCRIBE);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_their_password() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path()).await;
    for (user, password) in [("", ""), ("gateway", ""), ("gateway", "wrong"), ("admin", "admin")] {
        let last_words = Raw::connect(broker.port(), user, password).await.last_words().await;
        assert!(last_words.contains("Authorization Violation"), "{user}: {last_words}");
    }
    let raw = Raw::connect(broker.port(), "gateway", &broker::password("ops")).await;
    assert!(raw.last_words().await.contains("Authorization Violation"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_subject_makes_no_worker_publish_where_its_sender_may_not() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(&directory.path().join("nats")).await;
    let settings = |user: &str| NatsSettings::at(broker.url()).with_user(user, broker::password(user));
    provision(&settings("provision"), 1).await.unwrap();
    let (ready, is_ready) = oneshot::channel();
    let stop = CancellationToken::new();
    let config = auth_worker_at(settings("auth-worker"), directory.path().to_owned());
    let signal = move |_| {
        let _ = ready.send(());
    };
    let worker = tokio::spawn(<auth_worker::AuthWorker as service::Process>::run(
        config,
        Box::new(signal),
        stop.clone(),
    ));
    is_ready.await.expect("a worker that may do no more than it needs becomes ready");

    let mut spy = connect(&broker, "events-worker").await;
    spy.send("SUB events.* events 1\r\n").await;
    let mut attacker = connect(&broker, "ops").await;
    attacker.send("SUB _INBOX_ops.> 1\r\n").await;
    let stolen =
        ["events.approve", "auth.logout", "$KV.public-keys.jwks", "$JS.API.STREAM.DELETE.KV_public-keys"];
    for reply in stolen {
        // As a request and as a question about the service: both are answered by publishing.
        attacker.send(&format!("PUB auth.me {reply} 2\r\n{{}}\r\n")).await;
        attacker.send(&format!("PUB $SRV.INFO {reply} 0\r\n\r\n")).await;
    }
    attacker.send("PUB auth.me _INBOX_ops.control 2\r\n{}\r\n").await;
    let mut answers = Vec::new();
    while !answers.iter().any(|line: &String| line.starts_with("_INBOX_ops.control")) {
        answers.extend(attacker.heard().await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(spy.heard().await, [""; 0], "a worker published for somebody who may not");
    let mut gateway = connect(&broker, "gateway").await;
    gateway.send("SUB _INBOX_gateway.> 1\r\n").await;
    let wanted = r#"{"last_by_subj":"$KV.public-keys.jwks"}"#;
    gateway
        .send(&format!(
            "PUB $JS.API.STREAM.MSG.GET.KV_public-keys _INBOX_gateway.keys {}\r\n{wanted}\r\n",
            wanted.len()
        ))
        .await;
    let mut keys = Vec::new();
    while keys.is_empty() {
        keys = gateway.heard().await;
    }
    assert!(keys[0].contains("$KV.public-keys.jwks") && keys[0].contains("\"data\""), "{keys:?}");
    stop.cancel();
    worker.await.unwrap().unwrap();
}
