//! Lists: filters, search, sorts with ties, numbered pages and cursors.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::system::{auth_worker_at, event};
use crate::harness::{Answer, Database, Member, System, broker, on_both_databases};

on_both_databases!(
    filters_search_and_sorts,
    users_see_their_own_and_what_is_approved,
    a_cursor_walk_shows_each_row_once_while_rows_are_inserted,
    pages_say_where_they_stand,
    every_list_is_paged_by_cursor_with_a_link,
);

/// Follows `Link` from `path` on; returns what the pages hold, page by page.
async fn walk(system: &System, path: &str, token: &str) -> Vec<Vec<Value>> {
    let (mut pages, mut path) = (Vec::new(), path.to_owned());
    loop {
        let page = system.get(&path, token).await.expect(200);
        pages.push(page.body["data"].as_array().unwrap().clone());
        assert!(pages.len() < 200, "it does not end");
        let link = page.header("link");
        let next = link.strip_prefix('<').and_then(|rest| rest.split_once(">; rel=\"next\""));
        assert_eq!(next.is_some(), page.body["meta"]["hasNext"] == json!(true), "{link}");
        match next {
            Some((next, _)) => path = next.to_owned(),
            None => return pages,
        }
    }
}

async fn every_list_is_paged_by_cursor_with_a_link(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let id = system.draft(&admin).await;
    for round in 0..60 {
        let action = if round % 2 == 0 { "submit" } else { "withdraw" };
        system.post(&format!("/events/{id}/{action}"), &admin.token, Value::Null).await.expect(200);
    }
    let whole = system.get(&format!("/events/{id}/history"), &admin.token).await.expect(200);
    let entries = whole.body["data"].as_array().unwrap();
    assert_eq!((entries.len(), &whole.body["meta"]["hasNext"]), (61, &json!(false)));
    let pages = walk(&system, &format!("/events/{id}/history?limit=25"), &admin.token).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [25, 25, 11]);
    assert_eq!(&pages.concat(), entries);

    for _ in 0..4 {
        system.login(&admin.email, crate::harness::system::PASSWORD).await;
        system.add_member(&admin, "USER").await;
    }
    for (path, count) in [("/auth/sessions", 5), ("/auth/members", 5)] {
        let pages = walk(&system, &format!("{path}?limit=2"), &admin.token).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1], "{path}");
        let ids: HashSet<String> = pages.concat().iter().map(|one| one["id"].to_string()).collect();
        assert_eq!(ids.len(), count, "{path}");
    }
    for path in ["/auth/sessions", "/auth/members", &format!("/events/{id}/history")] {
        for query in ["cursor=x", "limit=0", "limit=101", "cursor=", "page=1"] {
            let refused = system.get(&format!("{path}?{query}"), &admin.token).await.expect(422);
            assert_eq!(refused.violations().len(), 1, "{refused:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_shrink_to_what_the_broker_carries() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("small.conf");
    std::fs::write(&file, "max_payload: 131072\njetstream {}\n").unwrap();
    let small = broker::start_configured(&file, &directory.path().join("nats"), None, &[]).await;
    let system = System::start_with(Database::Sqlite, small, directory).await;
    let admin = system.found_organization().await;
    let mut large = event("Large");
    large["description"] = json!("\u{1F600}".repeat(5000));
    for _ in 0..12 {
        system.post("/events", &admin.token, large.clone()).await.expect(201);
    }
    let pages = walk(&system, "/events?limit=100", &admin.token).await;
    assert!(pages.len() > 1 && pages.iter().all(|page| (1..=6).contains(&page.len())), "{}", pages.len());
    let ids: HashSet<String> = pages.concat().iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 12);
    // By number, a shorter page would hide events.
    let refused = system.get("/events?limit=100&page=1", &admin.token).await.expect(422);
    assert_eq!(refused.violations(), ["#/limit too_large"]);
    assert_eq!(
        system.get("/events?limit=2&page=6", &admin.token).await.expect(200).body["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_carry_the_largest_request_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tiny.conf");
    std::fs::write(&file, "max_payload: 65536\njetstream {}\n").unwrap();
    let tiny = broker::start_configured(&file, &directory.path().join("nats"), None, &[]).await;
    let nats = messaging::NatsSettings::at(tiny.url());
    messaging::provision(&nats, 1).await.unwrap();
    let config = auth_worker_at(nats, directory.path().to_owned());
    let refused =
        <auth_worker::AuthWorker as service::Process>::run(config, Box::new(|_| {}), Default::default())
            .await
            .unwrap_err();
    let expected = "max_payload is 65536 bytes and must be at least 73728";
    assert!(format!("{refused:#}").contains(expected), "{refused:#}");
}

async fn create(system: &System, member: &Member, title: &str, start: &str) -> String {
    let mut body = event(title);
    body["startDate"] = json!(start);
    body["endDate"] = json!("2026-12-31T00:00:00Z");
    system.post("/events", &member.token, body).await.expect(201).id()
}

fn titles(answer: &Answer) -> Vec<String> {
    answer.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["title"].as_str().unwrap().to_owned())
        .collect()
}

async fn filters_search_and_sorts(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    create(&system, &user, "Über Größe", "2026-03-01T00:00:00Z").await;
    create(&system, &user, "Alpha \"quoted\" 100%", "2026-01-01T00:00:00Z").await;
    let submitted = create(&system, &admin, "beta_test", "2026-02-01T00:00:00Z").await;
    system.post(&format!("/events/{submitted}/submit"), &admin.token, Value::Null).await.expect(200);

    let list = async |query: &str| system.get(&format!("/events?{query}"), &admin.token).await.expect(200);
    assert_eq!(titles(&list("").await), ["Alpha \"quoted\" 100%", "beta_test", "Über Größe"]);
    assert_eq!(
        titles(&list("sortBy=startDate&sortOrder=desc").await),
        ["Über Größe", "beta_test", "Alpha \"quoted\" 100%"]
    );
    assert_eq!(titles(&list("sortBy=title").await), ["Alpha \"quoted\" 100%", "beta_test", "Über Größe"]);
    assert_eq!(
        titles(&list("sortBy=createdAt&sortOrder=desc").await),
        ["beta_test", "Alpha \"quoted\" 100%", "Über Größe"]
    );
    assert_eq!(titles(&list("sortBy=status&sortOrder=desc").await)[0], "beta_test");
    assert_eq!(titles(&list("status=SUBMITTED").await), ["beta_test"]);
    assert_eq!(titles(&list("startDateFrom=2026-02-01T00:00:00Z").await), ["beta_test", "Über Größe"]);
    assert_eq!(
        titles(&list("startDateTo=2026-02-01T00:00:00%2B00:00").await),
        ["Alpha \"quoted\" 100%", "beta_test"]
    );
    // Any part of the text, in any case and script; nothing in it is a pattern.
    for (term, found) in [
        ("GRÖSSE", 0),
        ("GRÖßE", 1),
        ("über", 1),
        ("\"quoted\"", 1),
        ("100%", 1),
        ("0%", 1),
        ("a_t", 1),
        ("a%t", 0),
        ("_", 1),
        ("%", 1),
        ("*", 0),
        ("test", 3),
        ("OR", 0),
        ("te", 3),
    ] {
        let query = reqwest::Url::parse_with_params("http://x/", [("search", term)]).unwrap();
        let answer = list(query.query().unwrap()).await;
        assert_eq!(
            (titles(&answer).len(), answer.body["meta"]["total"].as_i64()),
            (found, Some(found as i64)),
            "{term}"
        );
    }
    let edited = json!({ "title": "gamma" });
    system.patch(&format!("/events/{submitted}"), &admin.token, edited).await.expect(200);
    assert_eq!(titles(&list("search=beta").await), [""; 0]);
    assert_eq!(titles(&list("search=gamma").await), ["gamma"]);
    system.delete(&format!("/events/{submitted}"), &admin.token).await.expect(204);
    assert_eq!(titles(&list("search=gamma").await), [""; 0]);
}

async fn users_see_their_own_and_what_is_approved(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let (user, other) = (system.add_member(&admin, "USER").await, system.add_member(&admin, "USER").await);
    let mut visible = HashSet::new();
    for status in ["DRAFT", "SUBMITTED", "APPROVED", "REJECTED"] {
        visible.insert(system.event_at(status, &user, &admin).await);
        let others = system.event_at(status, &other, &admin).await;
        if status == "APPROVED" {
            visible.insert(others);
        }
    }
    for sort in ["createdAt", "startDate", "title", "status"] {
        let answer = system.get(&format!("/events?sortBy={sort}"), &user.token).await.expect(200);
        let ids: Vec<String> = answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!((ids.len(), ids.iter().cloned().collect::<HashSet<_>>()), (5, visible.clone()), "{sort}");
        assert_eq!(answer.body["meta"]["total"], 5);
    }
    let drafts = system.get("/events?status=DRAFT", &user.token).await.expect(200);
    assert_eq!(drafts.body["meta"]["total"], 1);
    let approved = system.get("/events?status=APPROVED", &user.token).await.expect(200);
    assert_eq!(approved.body["meta"]["total"], 2);
    let all = system.get("/events", &admin.token).await.expect(200);
    assert_eq!(all.body["meta"]["total"], 8);
}

async fn a_cursor_walk_shows_each_row_once_while_rows_are_inserted(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let user = system.add_member(&admin, "USER").await;
    // Ties on every sort column: five titles and dates shared by forty events.
    let mut before = HashSet::new();
    for number in 0..40 {
        let start = format!("2026-0{}-01T00:00:00Z", number % 5 + 1);
        before.insert(create(&system, &user, &format!("Title {}", number % 5), &start).await);
    }
    for member in [&admin, &user] {
        for (sort, order) in [
            ("startDate", "asc"),
            ("startDate", "desc"),
            ("title", "asc"),
            ("title", "desc"),
            ("status", "asc"),
            ("createdAt", "desc"),
        ] {
            let mut seen = Vec::new();
            let mut path = format!("/events?limit=7&sortBy={sort}&sortOrder={order}");
            loop {
                let page = system.get(&path, &member.token).await.expect(200);
                let ids = page.body["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|event| event["id"].as_str().unwrap().to_owned());
                seen.extend(ids);
                create(&system, &user, "Title 2", "2026-03-01T00:00:00Z").await;
                let link = page.header("link").to_owned();
                assert_eq!(link.is_empty(), page.body["meta"]["nextCursor"].is_null());
                let Some(next) = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""))
                else {
                    break;
                };
                path = next.to_owned();
            }
            let unique: HashSet<String> = seen.iter().cloned().collect();
            assert_eq!(unique.len(), seen.len(), "{sort} {order} showed a row twice");
            assert!(unique.is_superset(&before), "{sort} {order} missed a row");
        }
    }
}

async fn pages_say_where_they_stand(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    for number in 0..5 {
        create(&system, &admin, &format!("Title {number}"), "2026-01-01T00:00:00Z").await;
    }
    let page =
        async |query: &str| system.get(&format!("/events?sortBy=title&limit=2&{query}"), &admin.token).await;
    let second = page("page=2").await.expect(200);
    assert_eq!(titles(&second), ["Title 2", "Title 3"]);
    let meta = &second.body["meta"];
    let expected = json!({
        "page": 2, "limit": 2, "total": 5, "totalPages": 3,
        "hasPrevious": true, "hasNext": true, "nextCursor": meta["nextCursor"],
    });
    assert_eq!(*meta, expected);
    let last = page("page=3").await.expect(200);
    assert_eq!(
        (&last.body["meta"]["hasNext"], &last.body["meta"]["nextCursor"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(titles(&page("page=4").await.expect(200)), [""; 0]);

    let cursor = meta["nextCursor"].as_str().unwrap();
    assert_eq!(titles(&page(&format!("cursor={cursor}")).await.expect(200)), ["Title 4"]);
    assert_eq!(
        page(&format!("cursor={cursor}&sortOrder=desc")).await.expect(422).violations(),
        ["#/cursor invalid"]
    );
    assert_eq!(page("cursor=AAAA").await.expect(422).violations(), ["#/cursor invalid"]);
    assert_eq!(page("page=9999").await.expect(422).violations(), ["#/page too_deep"]);
    let wrong = page("page=0&status=OPEN&sort=up&search=&startDateFrom=today").await.expect(422);
    let expected = [
        "#/page too_small",
        "#/search too_short",
        "#/sort unknown_field",
        "#/startDateFrom wrong_format",
        "#/status unknown_value",
    ];
    assert_eq!(wrong.violations(), expected);
    assert_eq!(page("limit=3").await.expect(422).violations(), ["#/limit repeated"]);
}
