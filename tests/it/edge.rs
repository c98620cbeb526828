//! The HTTP edge: statuses, headers and limits that hold whatever the operation.

use nix::sys::signal::{Signal, kill};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{System, system::event};

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_is_a_problem() {
    let system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    let token = Some(user.token.as_str());
    let post = |content_type: &'static str, body: String| {
        system.request(Method::POST, "/events", token).header("content-type", content_type).body(body)
    };
    let json_type = "application/json";
    let cases = [
        (404, "not-found", system.request(Method::GET, "/nowhere", token)),
        (404, "not-found", system.request(Method::GET, "/events/%ff%fe", token)),
        (405, "method-not-allowed", system.request(Method::PUT, "/events", token)),
        (401, "unauthenticated", system.request(Method::GET, "/events", None)),
        (401, "unauthenticated", system.request(Method::GET, "/events", Some("x.y.z"))),
        (406, "not-acceptable", system.request(Method::GET, "/events", token).header("accept", "text/html")),
        (413, "payload-too-large", post(json_type, "x".repeat(65_537))),
        (
            414,
            "uri-too-long",
            system.request(Method::GET, &format!("/events?search={}", "x".repeat(9000)), token),
        ),
        (415, "unsupported-media-type", post("text/plain", event("Test").to_string())),
        (400, "malformed-request", post(json_type, "{\"title\":".to_owned())),
        (400, "malformed-request", post(json_type, "[".repeat(65) + &"]".repeat(65))),
        (400, "malformed-request", post(json_type, r#"{"title":"a","title":"b"}"#.to_owned())),
        (
            400,
            "malformed-request",
            post(json_type, event("Test").to_string()).header("idempotency-key", "a b"),
        ),
        (
            400,
            "malformed-request",
            post(json_type, event("Test").to_string())
                .header("idempotency-key", "a")
                .header("idempotency-key", "b"),
        ),
        (422, "validation-failed", post(json_type, "[]".to_owned())),
        (422, "validation-failed", post(json_type, String::new())),
        (422, "validation-failed", system.request(Method::GET, "/events?nope=1", token)),
    ];
    for (status, problem, request) in cases {
        let answer = system.send(request).await.expect(status);
        assert_eq!(answer.problem(), problem, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.body["status"], status);
        assert_eq!(answer.body["outcome"], "none");
        assert_eq!(answer.body["correlationId"], answer.header("x-correlation-id"));
        assert_eq!(answer.body["traceId"].as_str().unwrap().len(), 32);
        for name in ["title", "detail", "instance"] {
            assert!(!answer.body[name].as_str().unwrap().is_empty(), "{answer:?}");
        }
    }
    let wrong_method = system.send(system.request(Method::DELETE, "/events", token)).await.expect(405);
    let allow: Vec<&str> = wrong_method.header("allow").split(',').collect();
    assert!(["GET", "HEAD", "POST"].iter().all(|method| allow.contains(method)), "{allow:?}");
    let large = system.request(Method::POST, "/auth/login", None).header("content-type", json_type);
    system.send(large.body("x".repeat(8193))).await.expect(413);
    // Without a length known beforehand.
    let chunks = futures_util::stream::iter((0..70).map(|_| Ok::<_, std::io::Error>("x".repeat(1000))));
    let streamed = system.request(Method::POST, "/events", token).header("content-type", json_type);
    system.send(streamed.body(reqwest::Body::wrap_stream(chunks))).await.expect(413);
}

#[tokio::test(flavor = "multi_thread")]
async fn correlation_ids_are_kept_or_replaced_and_always_echoed() {
    let system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    let ask = async |path: &str, ids: &[&str]| {
        let mut request = system.request(Method::GET, path, Some(&user.token));
        for id in ids {
            request = request.header("X-Correlation-ID", *id);
        }
        system.send(request).await
    };
    for path in ["/events", "/nowhere", "/livez", "/openapi.json", "/docs/", "/health"] {
        assert_eq!(ask(path, &["test-123"]).await.header("x-correlation-id"), "test-123", "{path}");
    }
    let long = "x".repeat(129);
    for bad in [&[long.as_str()][..], &["a b"], &["a", "b"], &[""], &["a;b"], &[]] {
        let answer = ask("/events", bad).await;
        let id = answer.header("x-correlation-id");
        assert_eq!((id.len(), &id[14..15]), (36, "7"), "{bad:?} became {id}");
    }
    assert_ne!(
        ask("/events", &[]).await.header("x-correlation-id"),
        ask("/events", &[]).await.header("x-correlation-id")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_what_they_may_do() {
    let system = System::start().await;
    let preflight = system
        .request(Method::OPTIONS, "/events", None)
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,idempotency-key,traceparent,tracestate,baggage",
        );
    let answer = system.send(preflight).await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    for name in ["idempotency-key", "traceparent", "tracestate", "baggage"] {
        assert!(answer.header("access-control-allow-headers").contains(name), "{name}");
    }
    // A failure, too, must be readable by the page that caused it.
    let refused = system.request(Method::GET, "/events", None).header("origin", "https://app.example");
    let answer = system.send(refused).await.expect(401);
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert!(answer.header("access-control-expose-headers").contains("x-correlation-id"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    let page = system.get("/docs/", "").await.expect(200);
    assert!(!page.text.contains("http://") && !page.text.contains("https://"), "{}", page.text);
    let head = system.send(system.request(Method::HEAD, "/livez", None)).await.expect(200);
    assert_eq!(head.text, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_wait_for_less_and_is_told_that_it_does() {
    let system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    for (preferred, applied) in [
        (&["wait=3"][..], "wait=3"),
        (&["respond-async, WAIT = 3 ; x=y"], "wait=3"),
        (&["return=minimal", "wait=\"2\""], "wait=2"),
        (&["note=\"a;b, wait=1\"; x=\"y,z\", wait=3"], "wait=3"),
        (&[", ,wait=2"], "wait=2"),
        (&["wait=10"], ""),
        (&["wait=0"], ""),
        (&["wait=-1"], ""),
        (&["wait"], ""),
        (&["wait=soon, wait=3"], ""),
        (&[], ""),
    ] {
        let mut request = system.request(Method::GET, "/events", Some(&user.token));
        for line in preferred {
            request = request.header("Prefer", *line);
        }
        let answer = system.send(request).await.expect(200);
        assert_eq!(
            answer.headers.get("preference-applied").map_or("", String::as_str),
            applied,
            "{preferred:?}"
        );
    }
}

/// Sends bytes as they are and returns the answer's head and body.
async fn raw(address: &str, request: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open: {}", String::from_utf8_lossy(&answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_host_once() {
    let system = System::start().await;
    let address = system.http.strip_prefix("http://").unwrap();
    let admin = system.admin.strip_prefix("http://").unwrap();
    let ask = async |address: &str, version: &str, hosts: &str| {
        let request = format!("GET /livez HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
        let answer = raw(address, request.as_bytes()).await;
        answer.split(' ').nth(1).unwrap_or("").to_owned()
    };
    for (version, hosts, status) in [
        ("1.1", "Host: localhost\r\n", "200"),
        ("1.1", "Host: localhost:3000\r\n", "200"),
        ("1.1", "Host: [::1]:3000\r\n", "200"),
        ("1.0", "", "200"),
        ("1.1", "", "400"),
        ("1.1", "Host:\r\n", "400"),
        ("1.1", "Host: a\r\nHost: a\r\n", "400"),
        ("1.1", "Host: a b\r\n", "400"),
        ("1.1", "Host: http://a\r\n", "400"),
        ("1.1", "Host: user@a\r\n", "400"),
        ("1.1", "Host: a:port\r\n", "400"),
        ("1.0", "Host: a\r\nHost: b\r\n", "400"),
    ] {
        assert_eq!(ask(address, version, hosts).await, status, "{version} {hosts:?}");
        assert_eq!(ask(admin, version, hosts).await, status, "admin port: {version} {hosts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_a_large_body_is_read_reaches_the_client() {
    let system = System::start().await;
    let address = system.http.strip_prefix("http://").unwrap().to_owned();
    let body = vec![b'x'; 5 * 1024 * 1024];
    for round in 0..20 {
        // Sends everything before it reads anything.
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "round {round}: {}", String::from_utf8_lossy(&answer));
        let request =
            system.request(Method::POST, "/auth/login", None).header("content-type", "application/json");
        system.send(request.body(body.clone())).await.expect(413);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decoded_or_answered_is_refused_and_nothing_else() {
    let system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    let token = Some(user.token.as_str());
    for (coding, status) in
        [("identity", 201), ("Identity", 201), ("gzip", 415), ("identity, br", 415), ("", 201)]
    {
        let request = system.request(Method::POST, "/events", token).json(&event("Coded"));
        let answer = system.send(request.header("content-encoding", coding)).await.expect(status);
        if status == 415 {
            assert_eq!(
                (answer.problem(), answer.header("accept-encoding")),
                ("unsupported-content-encoding", "identity")
            );
        }
    }
    let wrong_type =
        system.request(Method::POST, "/events", token).header("content-type", "text/plain").body("x");
    let answer = system.send(wrong_type).await.expect(415);
    assert_eq!(answer.header("accept-encoding"), "", "it is about the media type");
    for (accept, status) in [
        ("*", 200),
        ("", 200),
        ("*/*", 200),
        ("application/*;q=0.1", 200),
        ("text/html, */*;q=0.01", 200),
        ("application/json;q=0, */*", 406),
        ("application/json; q=0.5, */*;q=0", 200),
        ("application/*;q=0", 406),
        ("text/html", 406),
        ("*/*;q=0", 406),
        ("text/x;a=\"b, application/json\"", 406),
        ("TEXT/HTML,APPLICATION/JSON", 200),
    ] {
        let request = system.request(Method::GET, "/events", token).header("accept", accept);
        assert_eq!(system.send(request).await.status, status, "{accept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_tokens_are_told_from_missing_ones() {
    let system = System::start().await;
    let challenge = async |path: &str, token: Option<&str>| {
        let answer = system.send(system.request(Method::GET, path, token)).await.expect(401);
        answer.header("www-authenticate").to_owned()
    };
    assert_eq!(challenge("/events", None).await, "Bearer realm=\"eventboard\"");
    assert_eq!(
        challenge("/events", Some("x.y.z")).await,
        "Bearer realm=\"eventboard\", error=\"invalid_token\""
    );
    let wrong = json!({ "email": "user@acme.com", "password": "wrong" });
    let request = system.request(Method::POST, "/auth/login", Some("x.y.z")).json(&wrong);
    let answer = system.send(request).await.expect(401);
    assert_eq!(
        answer.header("www-authenticate"),
        "Bearer realm=\"eventboard\"",
        "the token was not looked at"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_outlive_a_balancers_and_half_a_head_does_not() {
    let system = System::start().await;
    let address = system.http.strip_prefix("http://").unwrap().to_owned();
    let ask = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut idle = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut half = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut answer = [0; 4096];
    for stream in [&mut idle, &mut half] {
        stream.write_all(ask).await.unwrap();
        assert!(stream.read(&mut answer).await.unwrap() > 0);
    }
    half.write_all(&ask[..20]).await.unwrap();
    let begun = std::time::Instant::now();
    // The header timeout of these systems is 3 seconds, the idle timeout 6.
    assert_eq!(half.read(&mut answer).await.unwrap_or(0), 0, "half a head is answered");
    assert!(begun.elapsed().as_millis() < 4000, "{:?}", begun.elapsed());
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    idle.write_all(ask).await.unwrap();
    assert!(idle.read(&mut answer).await.unwrap() > 0, "closed before its time");
    let begun = std::time::Instant::now();
    assert_eq!(idle.read(&mut answer).await.unwrap_or(0), 0);
    assert!((5000..9000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_health_are_served() {
    let system = System::start().await;
    let openapi = system.get("/openapi.json", "").await.expect(200);
    assert_eq!(openapi.body["openapi"], "3.1.0");
    for operation in contract::descriptions() {
        let method = operation.route.method.as_str().to_lowercase();
        assert!(openapi.body["paths"][operation.route.path][method].is_object(), "{}", operation.subject);
    }
    for path in ["/.well-known/jwks.json", "/livez", "/readyz", "/health"] {
        assert!(openapi.body["paths"][path]["get"]["responses"]["200"].is_object(), "{path}");
        system.get(path, "").await.expect(200);
    }
    assert_eq!(system.get("/asyncapi.json", "").await.expect(200).body["asyncapi"], "3.0.0");
    system.get("/livez", "").await.expect(200);
    let ready = system.get("/readyz", "").await.expect(200);
    assert_eq!(ready.body["checks"]["broker"]["status"], "pass");
    let admin = reqwest::get(format!("{}/readyz", system.admin)).await.unwrap();
    assert_eq!(admin.status(), 200);
    crate::harness::eventually("every dependency passes", || async {
        system.get("/health", "").await.body["status"] == "pass"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_that_a_gateway_is_ready_finds_it_healthy() {
    let mut system = System::start().await;
    for _ in 0..3 {
        let broker = nix::unistd::Pid::from_raw(system.broker.pid());
        kill(broker, Signal::SIGSTOP).unwrap();
        let slow = tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            kill(broker, Signal::SIGCONT).unwrap();
        });
        let gateway = system.start_another_gateway().await;
        let health = reqwest::get(format!("{gateway}/health")).await.unwrap();
        assert_eq!(health.status(), 200, "{}", health.text().await.unwrap());
        slow.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_declared_operation_is_routed() {
    let system = System::start().await;
    for operation in contract::descriptions() {
        let method = Method::from_bytes(operation.route.method.as_str().as_bytes()).unwrap();
        let path = operation.route.path.replace("{id}", "x");
        let answer = system.send(system.request(method, &path, None)).await;
        assert!(matches!(answer.status, 401 | 422), "{} answered {}", operation.subject, answer.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_head_does_not_hold_a_connection() {
    let system = System::start().await;
    let address = system.http.strip_prefix("http://").unwrap().to_owned();
    let mut slow = tokio::net::TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    for stream in [&mut slow, &mut silent] {
        let mut rest = Vec::new();
        let ended =
            tokio::time::timeout(std::time::Duration::from_secs(8), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
    system.get("/livez", "").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_answer_is_503_at_once_and_its_return_is_noticed() {
    let mut system = System::start().await;
    let user = system.login("user@acme.com", "Password123!").await;
    system.stop_worker("events-worker").await;
    let begun = std::time::Instant::now();
    let answer = system.get("/events", &user.token).await.expect(503);
    assert!(begun.elapsed() < std::time::Duration::from_secs(1), "it waited {:?}", begun.elapsed());
    assert_eq!((answer.problem(), &answer.body["retryable"]), ("unavailable", &json!(true)));
    assert_eq!(answer.header("retry-after"), "1");
    system.get("/auth/me", &user.token).await.expect(200);
    system.get("/readyz", "").await.expect(200);
    crate::harness::eventually("health warns", || async {
        system.get("/health", "").await.body["status"] == "warn"
    })
    .await;
    system.start_worker("events-worker").await;
    let listed = system.get("/events", &user.token).await.expect(200);
    assert_ne!(listed.body["data"], Value::Null);
}
