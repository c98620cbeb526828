//! Text: what can be written in several ways is one thing, and what cannot be seen is nothing. Both databases.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::system::{PASSWORD, event, signup, unique};
use crate::harness::{Database, System, on_both_databases};

on_both_databases!(
    what_cannot_be_seen_is_no_text,
    searches_find_whatever_the_case_and_composition,
    an_address_is_one_however_it_is_written,
    organisations_that_look_the_same_are_not_founded_beside_each_other,
    one_request_is_one_however_its_ids_and_times_are_written,
    texts_of_an_earlier_version_are_folded_anew,
);

/// Nothing that anybody could see.
const INVISIBLE: [&str; 6] = [
    "     ",
    "\u{200b}\u{200b}\u{200b}\u{200b}",
    "\u{2800}\u{2800}\u{2800}\u{2800}",
    "\u{3164}\u{3164}\u{3164}\u{3164}",
    "\u{a0}\u{2003}\u{feff}\u{3000}",
    "a\u{200d}\u{200d}\u{2060}",
];

async fn what_cannot_be_seen_is_no_text(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let submitted = system.event_at("SUBMITTED", &system.add_member(&admin, "USER").await, &admin).await;
    for text in INVISIBLE {
        let titled = system.post("/events", &admin.token, event(text)).await.expect(422);
        assert_eq!(titled.violations(), ["#/title too_short"], "{text:?}");
        let reason = json!({ "reason": text.repeat(5) });
        let rejected =
            system.post(&format!("/events/{submitted}/reject"), &admin.token, reason).await.expect(422);
        assert_eq!(rejected.violations(), ["#/reason too_short"], "{text:?}");
        if !text.contains('a') {
            let mut nameless =
                signup(json!({ "organizationName": text, "firstName": text, "lastName": text }));
            nameless["email"] = json!(format!("{}@example.com", unique("nameless")));
            let refused = system.post("/auth/signup", "", nameless).await.expect(422);
            let expected = ["#/firstName too_short", "#/lastName too_short", "#/organizationName too_short"];
            assert_eq!(refused.violations(), expected, "{text:?}");
            let search =
                system.request(Method::GET, "/events", Some(&admin.token)).query(&[("search", text)]);
            assert_eq!(
                system.send(search).await.expect(422).violations(),
                ["#/search too_short"],
                "{text:?}"
            );
        }
    }
    for line in ["two\u{2028}lines", "two\u{2029}lines", "two\nlines"] {
        let refused = system.post("/events", &admin.token, event(line)).await.expect(422);
        assert_eq!(refused.violations(), ["#/title wrong_format"], "{line:?}");
    }
    for date in ["2027-06-01x10:00:00Z", "2027-06-01 10:00:00Z", "2027-06-01T10:00:00,5Z"] {
        let mut dated = event("Dated");
        dated["startDate"] = json!(date);
        let refused = system.post("/events", &admin.token, dated).await.expect(422);
        assert_eq!(refused.violations(), ["#/startDate wrong_format"], "{date}");
    }
    // Blanks within are seen by what they keep apart.
    system.post("/events", &admin.token, event("a b")).await.expect(201);
    let composed = system.post("/events", &admin.token, event("Cafe\u{301}")).await.expect(201);
    assert_eq!(composed.body["title"], "Café");
}

async fn searches_find_whatever_the_case_and_composition(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    system.post("/events", &admin.token, event("ΟΔΟΣ Größe Cafe\u{301}")).await.expect(201);
    for term in
        ["οδος", "οδοσ", "ΟΔΟΣ", "GRÖ\u{1e9e}E", "größe", "gro\u{308}ße", "café", "CAFE\u{301}", "ς g", "σ"]
    {
        let search = system.request(Method::GET, "/events", Some(&admin.token)).query(&[("search", term)]);
        let found = system.send(search).await.expect(200);
        assert_eq!(found.body["meta"]["total"], 1, "{term}");
    }
    let search = system.request(Method::GET, "/events", Some(&admin.token)).query(&[("search", "cafe")]);
    assert_eq!(system.send(search).await.expect(200).body["meta"]["total"], 0);
}

async fn an_address_is_one_however_it_is_written(database: Database) {
    let system = System::start_on(database).await;
    let sign_up = async |email: &str| {
        let mut body = signup(json!({ "organizationName": unique("Addresses") }));
        body["email"] = json!(email);
        system.post("/auth/signup", "", body).await
    };
    for (first, others) in [
        (
            "josé@example.com",
            &["JOSE\u{301}@example.com", "jose\u{301}@EXAMPLE.com", " josé@example.com "][..],
        ),
        ("anna@bücher.example", &["Anna@BU\u{308}CHER.example", "anna@xn--bcher-kva.example"][..]),
        ("ｗide@example.com", &["wide@example.com"][..]),
    ] {
        sign_up(first).await.expect(201);
        for other in others {
            assert_eq!(sign_up(other).await.expect(409).problem(), "email-taken", "{other}");
            system.login(other, PASSWORD).await;
        }
    }
    let admin = system.found_organization().await;
    let invite = json!({ "email": "rené@example.com", "role": "USER" });
    let invited = system.post("/auth/invitations", &admin.token, invite).await.expect(201);
    let mut body = signup(json!({ "invitation": invited.body["invitation"] }));
    body["email"] = json!("Rene\u{301}@example.com");
    system.post("/auth/signup", "", body).await.expect(201);
}

async fn organisations_that_look_the_same_are_not_founded_beside_each_other(database: Database) {
    let system = System::start_on(database).await;
    let found =
        async |name: &str| system.post("/auth/signup", "", signup(json!({ "organizationName": name }))).await;
    found("Cosmo Pace").await.expect(201);
    for alike in [
        "COSMO pace",
        "Cosmo  Pace",
        "Ｃｏｓｍｏ Pace",
        "Cos\u{200b}mo Pace",
        "Соsmo Расе",
        "cosmo-pace!",
        "Cosmo\u{a0}Pace",
        "CosmoPace",
    ] {
        assert_eq!(found(alike).await.expect(409).problem(), "organization-taken", "{alike}");
    }
    found("Cosno Pace").await.expect(201);
    found("Café Müller").await.expect(201);
    found("CAFE\u{301} MU\u{308}LLER").await.expect(409);
    found("Cafe Muller").await.expect(201);
}

async fn one_request_is_one_however_its_ids_and_times_are_written(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let send = async |method: Method, path: &str, body: Value| {
        let request = system.request(method, path, Some(&admin.token)).header("Idempotency-Key", "same");
        system.send(if body.is_null() { request } else { request.json(&body) }).await
    };
    let mut first = event("Same\u{e9}");
    let created = send(Method::POST, "/events", first.clone()).await.expect(201);
    first["startDate"] = json!("2026-06-01T12:00:00.000+02:00");
    first["endDate"] = json!("2026-06-01t12:00:00.000z");
    first["title"] = json!("Samee\u{301}");
    let again = send(Method::POST, "/events", first.clone()).await.expect(201);
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &created.text));
    first["title"] = json!("Other");
    assert_eq!(send(Method::POST, "/events", first).await.expect(422).problem(), "idempotency-key-reused");

    let other = system.draft(&admin).await;
    let submit = async |id: &str| {
        let path = format!("/events/{id}/submit");
        let request =
            system.request(Method::POST, &path, Some(&admin.token)).header("Idempotency-Key", "submit");
        system.send(request).await.expect(200)
    };
    let submitted = submit(&other).await;
    let again = submit(&other.to_uppercase()).await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &submitted.text));
}

async fn texts_of_an_earlier_version_are_folded_anew(database: Database) {
    let (store, tables) = super::event_store::open(database).await;
    let mut event = super::event_store::event(1);
    event.title = "ΟΔΟΣ".to_owned();
    super::event_store::insert(&*store, &event).await;
    super::event_store::insert(&*store, &super::event_store::event(2)).await;
    tables.run("UPDATE events SET folded_version = NULL, search_text = 'οδος' WHERE title = 'ΟΔΟΣ'").await;
    tables.run("UPDATE events SET folded_version = NULL WHERE title <> 'ΟΔΟΣ'").await;
    let soon = super::event_store::soon;
    assert_eq!(store.fold_texts(10, soon()).await.unwrap(), 1, "what is ASCII needs no other form");
    assert_eq!(store.fold_texts(10, soon()).await.unwrap(), 0);
    let found = super::event_store::found_by(&*store, "οδοσ").await.unwrap();
    assert_eq!(found, [event]);
    // A worker of an earlier version, which knows nothing of this, changes the event.
    tables.run("UPDATE events SET version = version + 1, search_text = 'οδος' WHERE title = 'ΟΔΟΣ'").await;
    assert_eq!(store.fold_texts(10, soon()).await.unwrap(), 1);
    assert_eq!(store.fold_texts(10, soon()).await.unwrap(), 0);
    assert_eq!(super::event_store::found_by(&*store, "οδοσ").await.unwrap().len(), 1);
}
