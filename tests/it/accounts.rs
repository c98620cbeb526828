//! Accounts: signup, login, refresh, logout, invitations, and the tokens they give.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::system::{PASSWORD, signup, unique};
use crate::harness::{Answer, Database, System, on_both_databases};

on_both_databases!(
    signup_founds_an_organisation_and_signs_in,
    racing_signups_make_one_account,
    bad_signups_name_their_rules,
    login_says_the_same_for_every_cause,
    refresh_rotates_and_logout_ends_the_session,
    a_lost_answer_to_a_refresh_is_given_again,
    a_replaced_refresh_token_ends_its_session,
    invitations_are_for_one_address_one_time_and_by_admins,
    only_our_own_untouched_tokens_are_accepted,
);

async fn signup_founds_an_organisation_and_signs_in(database: Database) {
    let system = System::start_on(database).await;
    let request = signup(json!({ "organizationName": "Größe & Söhne", "email": " Mixed.Case@Example.COM " }));
    let answer = system.post("/auth/signup", "", request.clone()).await.expect(201);
    assert_eq!(
        (&answer.body["user"]["email"], &answer.body["user"]["role"]),
        (&json!("mixed.case@example.com"), &json!("ADMIN"))
    );
    assert_eq!((answer.body["expiresIn"].as_i64(), answer.header("cache-control")), (Some(900), "no-store"));
    assert!(!answer.text.contains(PASSWORD) && !answer.text.contains("argon2"));
    let me = system.get("/auth/me", answer.body["accessToken"].as_str().unwrap()).await.expect(200);
    assert_eq!(me.body["organization"]["slug"], "größe-söhne");
    assert_eq!(me.body["organization"]["id"], me.body["organizationId"]);

    assert_eq!(system.post("/auth/signup", "", request).await.expect(409).problem(), "organization-taken");
    let again = signup(json!({ "organizationName": unique("Other"), "email": "MIXED.case@example.com" }));
    assert_eq!(system.post("/auth/signup", "", again).await.expect(409).problem(), "email-taken");
    let same = signup(json!({ "organizationName": "größe SÖHNE!!" }));
    assert_eq!(system.post("/auth/signup", "", same).await.expect(409).problem(), "organization-taken");
}

async fn racing_signups_make_one_account(database: Database) {
    let system = System::start_on(database).await;
    let request = signup(json!({ "organizationName": unique("Raced") }));
    let raced = (0..8).map(|_| system.post("/auth/signup", "", request.clone()));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(raced).await.iter().map(|answer| answer.status).collect();
    statuses.sort();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
}

async fn bad_signups_name_their_rules(database: Database) {
    let system = System::start_on(database).await;
    let refused = async |more: Value| {
        let answer = system.post("/auth/signup", "", signup(more)).await.expect(422);
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
        answer.violations()
    };
    assert_eq!(refused(json!({})).await, ["#/organizationName required"]);
    assert_eq!(refused(json!({ "organizationName": "!!!" })).await, ["#/organizationName wrong_format"]);
    assert_eq!(
        refused(json!({ "organizationName": "A b", "password": "hunter2" })).await,
        ["#/password too_short"]
    );
    assert_eq!(
        refused(json!({ "organizationName": "A b", "password": "Password1" })).await,
        ["#/password common"]
    );
    assert_eq!(refused(json!({ "invitation": "made up" })).await, ["#/invitation invalid"]);
    let both = json!({ "invitation": "x", "organizationName": "A b", "email": "nobody", "role": "ADMIN" });
    assert_eq!(
        refused(both).await,
        ["#/email wrong_format", "#/invitation conflict", "#/role unknown_field"]
    );
    // Eight characters, not bytes: no composition rule, no truncation.
    let fits = json!({ "organizationName": unique("Any script"), "password": "ñandúñañ" });
    system.post("/auth/signup", "", signup(fits)).await.expect(201);
}

async fn login_says_the_same_for_every_cause(database: Database) {
    let system = System::start_on(database).await;
    let login = async |email: &str, password: &str| {
        system.post("/auth/login", "", json!({ "email": email, "password": password })).await
    };
    login("user@acme.com", "Password123!").await.expect(200);
    login("USER@acme.com", "Password123!").await.expect(200);
    let strip = |answer: Answer| {
        let mut body = answer.expect(401).body;
        for id in ["correlationId", "traceId", "instance"] {
            body[id] = Value::Null;
        }
        body
    };
    let (wrong, unknown) =
        (login("user@acme.com", "password123!").await, login("nobody@acme.com", "Password123!").await);
    assert!(wrong.header("www-authenticate").starts_with("Bearer"));
    assert_eq!(strip(wrong), strip(unknown));
}

async fn refresh_rotates_and_logout_ends_the_session(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let refresh =
        async |token: &str| system.post("/auth/refresh", "", json!({ "refreshToken": token })).await;
    let second = refresh(&member.refresh).await.expect(200);
    for none_of_ours in ["", "x", "not a token", &"x".repeat(600), &"a".repeat(4000), "\u{1F600}"] {
        assert_eq!(refresh(none_of_ours).await.expect(401).problem(), "unauthenticated", "{none_of_ours}");
        let body = json!({ "refreshToken": none_of_ours });
        system.post("/auth/logout", "", body).await.expect(401);
    }
    let newest = second.body["refreshToken"].as_str().unwrap();
    assert_ne!(newest, member.refresh);
    system.get("/auth/me", second.body["accessToken"].as_str().unwrap()).await.expect(200);
    refresh("made-up").await.expect(401);
    system.post("/auth/logout", "", json!({ "refreshToken": newest })).await.expect(204);
    refresh(newest).await.expect(401);
    system.post("/auth/logout", "", json!({ "refreshToken": "made-up" })).await.expect(401);
}

/// The refresh token of an answer.
fn successor(answer: &Answer) -> String {
    answer.body["refreshToken"].as_str().unwrap().to_owned()
}

async fn a_lost_answer_to_a_refresh_is_given_again(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let refresh = async |token: &str| {
        system.post("/auth/refresh", "", json!({ "refreshToken": token })).await.expect(200)
    };
    // Several tabs at once, and one that comes a moment later: one rotation, one successor.
    let tabs = futures_util::future::join_all((0..16).map(|_| refresh(&member.refresh))).await;
    let newest = successor(&tabs[0]);
    assert!(tabs.iter().all(|tab| successor(tab) == newest), "{tabs:?}");
    let again = refresh(&member.refresh).await;
    assert_eq!(successor(&again), newest);
    system.get("/auth/me", again.body["accessToken"].as_str().unwrap()).await.expect(200);
    assert_ne!(successor(&refresh(&newest).await), newest);
}

async fn a_replaced_refresh_token_ends_its_session(database: Database) {
    let system = System::start_on(database).await;
    let member = system.found_organization().await;
    let refresh =
        async |token: &str| system.post("/auth/refresh", "", json!({ "refreshToken": token })).await;
    let second = successor(&refresh(&member.refresh).await.expect(200));
    let third = successor(&refresh(&second).await.expect(200));
    // A chain of two: whoever holds the first one has a copy.
    refresh(&member.refresh).await.expect(401);
    for token in [&third, &second, &member.refresh] {
        refresh(token).await.expect(401);
    }
    // Other sessions of the same user go on.
    system.login(&member.email, PASSWORD).await;
}

async fn invitations_are_for_one_address_one_time_and_by_admins(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.found_organization().await;
    let moderator = system.add_member(&admin, "MODERATOR").await;
    let invite = json!({ "email": "new@example.com", "role": "USER" });
    system.post("/auth/invitations", &moderator.token, invite.clone()).await.expect(403);
    system.post("/auth/invitations", "", invite.clone()).await.expect(401);
    let taken = json!({ "email": moderator.email, "role": "USER" });
    assert_eq!(
        system.post("/auth/invitations", &admin.token, taken).await.expect(409).problem(),
        "email-taken"
    );
    let issued = system.post("/auth/invitations", &admin.token, invite).await.expect(201);
    let join = |email: &str| {
        let mut request = signup(json!({ "invitation": issued.body["invitation"] }));
        request["email"] = json!(email);
        system.post("/auth/signup", "", request)
    };
    join("other@example.com").await.expect(422);
    let joined = join("NEW@example.com").await.expect(201);
    assert_eq!(joined.body["user"]["organizationId"], admin.organization);
    assert_eq!(joined.body["user"]["role"], "USER");
    // The address is taken by now, and the invitation is used: either way nobody gets in again.
    join("new@example.com").await.expect(422);
}

async fn only_our_own_untouched_tokens_are_accepted(database: Database) {
    let system = System::start_on(database).await;
    let admin = system.login("admin@acme.com", "Password123!").await;
    let parts: Vec<&str> = admin.token.split('.').collect();
    let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let (header, claims) = (read(parts[0]), read(parts[1]));
    assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("at+jwt")));
    for claim in ["iss", "aud", "sub", "email", "org", "role", "sid", "iat", "nbf", "exp", "jti"] {
        assert!(!claims[claim].is_null(), "{claim} is missing");
    }
    let write = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let with = |name: &str, value: Value, original: &Value| {
        let mut changed = original.clone();
        changed[name] = value;
        write(&changed)
    };
    let mut forged = vec![
        String::new(),
        "x".to_owned(),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], with("role", json!("USER"), &claims), parts[2]),
        format!("{}.{}.", with("alg", json!("none"), &header), parts[1]),
        format!("{}.{}.{}", with("alg", json!("HS256"), &header), parts[1], parts[2]),
        "x".repeat(5000),
    ];
    for (name, value) in [
        ("typ", json!("JWT")),
        ("kid", json!("another")),
        ("kid", Value::Null),
        ("jku", json!("https://example.com/keys")),
        ("crit", json!(["exp"])),
    ] {
        forged.push(format!("{}.{}.{}", with(name, value, &header), parts[1], parts[2]));
    }
    for token in forged {
        system.get("/events", &token).await.expect(401);
        system.message_as("events.list", &token, json!({})).await.expect(401);
        system.message_as("auth.me", &token, json!({})).await.expect(401);
    }
    system.get("/events", &admin.token).await.expect(200);
    let keys = system.get("/.well-known/jwks.json", "").await.expect(200);
    let tag = keys.header("etag").to_owned();
    for (held, status) in [(tag.as_str(), 304), (&format!("\"x\", W/{tag}"), 304), ("*", 304), ("\"x\"", 200)]
    {
        let request = system.request(reqwest::Method::GET, "/.well-known/jwks.json", None);
        let again = system.send(request.header("If-None-Match", held)).await.expect(status);
        assert_eq!(
            (again.header("etag"), again.header("cache-control")),
            (tag.as_str(), "public, max-age=60")
        );
    }
    assert_eq!(keys.body["keys"][0]["kid"], header["kid"]);
    assert!(keys.body["keys"][0]["d"].is_null());
}
