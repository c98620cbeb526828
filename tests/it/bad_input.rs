//! Whatever arrives, the answer is a problem that names what is wrong, never a 5xx.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::harness::{Answer, Member, System};

struct Fixture {
    runtime: Runtime,
    system: System,
    member: Member,
}

impl Fixture {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let (system, member) = runtime.block_on(async {
            let system = System::start().await;
            let member = system.found_organization().await;
            (system, member)
        });
        Self { runtime, system, member }
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// An answer is a success, or a problem with everything a problem has.
fn assert_problem_or_success(answer: &Answer) -> Result<(), TestCaseError> {
    prop_assert!(answer.status < 500, "{:?}", answer);
    if answer.status >= 400 {
        prop_assert_eq!(answer.header("content-type"), "application/problem+json", "{:?}", answer);
        prop_assert_eq!(answer.body["status"].as_u64(), Some(answer.status.into()));
        prop_assert_eq!(answer.status == 422, !answer.violations().is_empty(), "{:?}", answer);
        for violation in answer.violations() {
            prop_assert!(violation.starts_with('#'), "{}", violation);
        }
    }
    Ok(())
}

/// A value for one field, and the code of the rule it breaks.
type Field = (Option<Value>, Option<&'static str>);

fn text(minimum: usize, maximum: usize, optional: bool) -> impl Strategy<Value = Field> {
    let absent = if optional { None } else { Some("required") };
    let null = if optional { None } else { Some("wrong_type") };
    prop_oneof![
        4 => "[ -~äöü東]{5,40}".prop_map(|text| (Some(json!(text)), None)),
        1 => Just((None, absent)),
        1 => Just((Some(Value::Null), null)),
        1 => any::<i32>().prop_map(|number| (Some(json!(number)), Some("wrong_type"))),
        1 => Just((Some(json!(["x"])), Some("wrong_type"))),
        1 => Just((Some(json!({ "x": { "y": "z" } })), Some("wrong_type"))),
        1 => (1..50_usize).prop_map(move |more| (Some(json!("ä".repeat(maximum + more))), Some("too_long"))),
        1 => Just(match minimum {
            0 => (Some(json!("")), None),
            _ => (Some(json!("x".repeat(minimum - 1))), Some("too_short")),
        }),
        1 => prop_oneof![Just('\0'), Just('\r'), Just('\u{7f}'), Just('\u{202e}'), Just('\u{85}')]
            .prop_map(|bad| (Some(json!(format!("some text{bad}"))), Some("wrong_format"))),
    ]
}

fn date(good: &'static str) -> impl Strategy<Value = Field> {
    prop_oneof![
        3 => Just((Some(json!(good)), None)),
        1 => Just((None, Some("required"))),
        1 => Just((Some(Value::Null), Some("wrong_type"))),
        1 => any::<i64>().prop_map(|number| (Some(json!(number)), Some("wrong_type"))),
        1 => "[0-9T:+Z. -]{0,30}".prop_filter("a date by chance", |text| {
            contract::Timestamp::parse(text).is_none()
        }).prop_map(|text| (Some(json!(text)), Some("wrong_format"))),
        1 => prop_oneof![Just("2026-02-30T00:00:00Z"), Just("0000-01-01T00:00:00Z"), Just("2026-01-01"),
            Just("9999-12-31T23:59:59-23:59")].prop_map(|text| (Some(json!(text)), Some("wrong_format"))),
    ]
}

#[test]
fn a_created_event_breaks_exactly_the_rules_it_breaks() {
    let fixture = Fixture::start();
    let fields = (
        text(3, 200, false),
        text(1, 5000, false),
        text(0, 200, true),
        date("2026-06-01T10:00:00Z"),
        date("2026-06-01T12:00:00Z"),
        proptest::option::of("[a-z~/]{1,12}_"),
    );
    let outcome = runner(300).run(&fields, |(title, description, location, start, end, unknown)| {
        let (mut body, mut expected) = (Map::new(), Vec::new());
        let named = [
            ("title", title),
            ("description", description),
            ("location", location),
            ("startDate", start),
            ("endDate", end),
        ];
        for (name, (value, code)) in named {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
            expected.extend(code.map(|code| format!("#/{name} {code}")));
        }
        if let Some(name) = unknown {
            expected.push(format!("#/{} unknown_field", name.replace('~', "~0").replace('/', "~1")));
            body.insert(name, Value::Null);
        }
        expected.sort();
        let body = Value::Object(body);
        let (http, nats) = fixture.runtime.block_on(async {
            let token = &fixture.member.token;
            tokio::join!(
                fixture.system.post("/events", token, body.clone()),
                fixture.system.message_as("events.create", token, body.clone())
            )
        });
        for answer in [http, nats] {
            assert_problem_or_success(&answer)?;
            prop_assert_eq!(answer.status, if expected.is_empty() { 201 } else { 422 }, "{:?}", answer);
            prop_assert_eq!(answer.violations(), expected.clone());
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn any_bytes_path_query_and_headers_get_an_answer_that_is_no_5xx() {
    let fixture = Fixture::start();
    let routes: Vec<(Method, String)> = contract::descriptions()
        .iter()
        .map(|operation| (operation.route.method.as_str().parse().unwrap(), operation.route.path.to_owned()))
        .collect();
    let names = [
        "idempotency-key",
        "if-match",
        "if-none-match",
        "x-correlation-id",
        "traceparent",
        "accept",
        "prefer",
        "content-type",
    ];
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "\\PC{0,100}".prop_map(String::into_bytes),
        "[\\[\\]{}\",:0-9a-z\\\\]{0,80}".prop_map(String::into_bytes),
    ];
    let strategy = (
        0..routes.len(),
        "[^\\x00]{0,30}",
        proptest::collection::vec(
            ("[a-zA-Z]{1,12}|limit|page|cursor|search|status", "\\PC{0,40}|[0-9-]{1,25}"),
            0..4,
        ),
        proptest::collection::vec((0..names.len(), proptest::collection::vec(any::<u8>(), 0..60)), 0..3),
        body,
    );
    let outcome = runner(500).run(&strategy, |(route, id, query, headers, body)| {
        let (method, template) = &routes[route];
        let id: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = template.replace("{id}", if id.is_empty() { "x" } else { &id });
        let mut request = fixture
            .system
            .request(method.clone(), &path, Some(&fixture.member.token))
            .query(&query)
            .header("content-type", "application/json")
            .body(body);
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request = request.header(HeaderName::from_static(names[name]), value);
            }
        }
        let answer = fixture.runtime.block_on(fixture.system.send(request));
        assert_problem_or_success(&answer)
    });
    outcome.unwrap();
}

#[test]
fn any_message_gets_an_answer_that_is_no_5xx() {
    let fixture = Fixture::start();
    let subjects: Vec<&str> = contract::descriptions().iter().map(|operation| operation.subject).collect();
    let names = [
        "Idempotency-Key",
        "If-Match",
        "X-Correlation-ID",
        "X-Budget-Ms",
        "X-Deadline-Ms",
        "traceparent",
        "baggage",
    ];
    let payload = prop_oneof!["\\PC{0,100}", "[\\[\\]{}\",:0-9a-z\\\\]{0,80}", Just("[".repeat(3000))];
    let strategy = (
        0..subjects.len(),
        payload,
        proptest::collection::vec((0..names.len(), "[ -~]{0,40}|[0-9]{14,20}"), 0..3),
    );
    let outcome = runner(400).run(&strategy, |(subject, payload, headers)| {
        let bearer = format!("Bearer {}", fixture.member.token);
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend(headers.iter().map(|(name, value)| (names[*name], value.as_str())));
        let answer = fixture.runtime.block_on(fixture.system.message(subjects[subject], &payload, &all));
        // A deadline that has passed is the one 5xx a sender can ask for.
        if answer.status == 504 {
            prop_assert_eq!(answer.problem(), "deadline-exceeded");
            return Ok(());
        }
        assert_problem_or_success(&answer)
    });
    outcome.unwrap();
}
