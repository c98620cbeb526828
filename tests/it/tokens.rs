//! Access tokens that must not be accepted, each signed as well as its forger could, over HTTP and over NATS.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::System;

/// What tokens are made of.
struct Mint {
    /// The system's own key.
    key: Ed25519KeyPair,
    header: Value,
    claims: Value,
}

impl Mint {
    /// The key that the system signs with, and the parts of a token it has issued.
    fn of(system: &System, token: &str) -> Self {
        let pem = std::fs::read_to_string(system.data_dir().join("signing-key.pem")).unwrap();
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = Ed25519KeyPair::from_pkcs8(&STANDARD.decode(base64).unwrap()).unwrap();
        let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let mut read = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
        Self { key, header: read(), claims: read() }
    }

    /// A token with these parts, signed by `key`.
    fn signed_by(key: &Ed25519KeyPair, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = key.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// A token with these parts and our own signature.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        Self::signed_by(&self.key, &header.to_string(), &claims.to_string())
    }

    fn header(&self, name: &str, value: Value) -> String {
        self.sign(&changed(&self.header, name, value), &self.claims)
    }

    fn claim(&self, name: &str, value: Value) -> String {
        self.sign(&self.header, &changed(&self.claims, name, value))
    }
}

/// `original` with one member changed; without it for `null`.
fn changed(original: &Value, name: &str, value: Value) -> Value {
    let mut changed = original.clone();
    if value.is_null() {
        changed.as_object_mut().unwrap().remove(name);
    } else {
        changed[name] = value;
    }
    changed
}

fn headers(mint: &Mint) -> Vec<(String, String)> {
    let other =
        Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref())
            .unwrap();
    let own = |key: &Ed25519KeyPair| json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref()) });
    let mut cases: Vec<(String, String)> = [
        ("alg", json!("none")),
        ("alg", json!("None")),
        ("alg", json!("RS256")),
        ("alg", json!("ES256")),
        ("alg", json!("eddsa")),
        ("alg", Value::Null),
        ("typ", json!("JWT")),
        ("typ", Value::Null),
        ("kid", Value::Null),
        ("kid", json!("")),
        ("kid", json!(1)),
        ("kid", json!("../../dev/null")),
        ("jku", json!("https://example.com/keys")),
        ("jwk", own(&mint.key)),
        ("x5u", json!("https://example.com/chain")),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("cty", json!("JWT")),
        ("zip", json!("DEF")),
    ]
    .into_iter()
    .map(|(name, value)| (format!("header {name} {value}"), mint.header(name, value)))
    .collect();
    // The public key as the secret of an HMAC.
    let header = changed(&mint.header, "alg", json!("HS256"));
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(mint.claims.to_string())
    );
    let secret = hmac::Key::new(hmac::HMAC_SHA256, mint.key.public_key().as_ref());
    let mac = hmac::sign(&secret, message.as_bytes());
    cases.push(("HMAC".to_owned(), format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))));
    // Somebody else's key, also brought along.
    let (header, claims) = (mint.header.to_string(), mint.claims.to_string());
    cases.push(("another key".to_owned(), Mint::signed_by(&other, &header, &claims)));
    let brought = changed(&mint.header, "jwk", own(&other));
    cases.push(("a key brought along".to_owned(), Mint::signed_by(&other, &brought.to_string(), &claims)));
    let twice = header.replacen('{', "{\"alg\":\"none\",", 1);
    cases.push(("alg twice".to_owned(), Mint::signed_by(&mint.key, &twice, &claims)));
    cases
}

fn claims(mint: &Mint) -> Vec<(String, String)> {
    let now = mint.claims["iat"].as_i64().unwrap();
    let mut cases: Vec<(String, String)> = [
        ("exp", Value::Null),
        ("exp", json!((now + 900).to_string())),
        ("exp", json!(now - 6)),
        ("exp", json!(now)),
        ("exp", json!(now + 901)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(1e300)),
        ("iat", Value::Null),
        ("iat", json!(now + 60)),
        ("iat", json!(i64::MIN)),
        ("iat", json!(now.to_string())),
        ("nbf", Value::Null),
        ("nbf", json!(now + 60)),
        ("nbf", json!(now.to_string())),
        ("iss", Value::Null),
        ("iss", json!("somebody else")),
        ("iss", json!([mint.claims["iss"]])),
        ("aud", Value::Null),
        ("aud", json!("somebody else")),
        ("aud", json!([mint.claims["aud"], "somebody else"])),
        ("sub", Value::Null),
        ("sub", json!("admin")),
        ("sub", json!(["admin"])),
        ("org", Value::Null),
        ("org", json!("*")),
        ("role", Value::Null),
        ("role", json!("ROOT")),
        ("role", json!("admin")),
        ("role", json!(["ADMIN"])),
        ("sid", Value::Null),
        ("sid", json!("x")),
        ("jti", json!(1)),
    ]
    .into_iter()
    .map(|(name, value)| (format!("claim {name} {value}"), mint.claim(name, value)))
    .collect();
    let (header, claims) = (mint.header.to_string(), mint.claims.to_string());
    let twice = claims.replacen('{', "{\"role\":\"USER\",", 1);
    for (what, claims) in [
        ("role twice", twice.as_str()),
        ("no claims", ""),
        ("claims are a list", "[]"),
        ("claims are nothing", "null"),
        ("claims break off", "{\"sub\":"),
    ] {
        cases.push((what.to_owned(), Mint::signed_by(&mint.key, &header, claims)));
    }
    cases
}

fn shapes(token: &str, other: &str) -> Vec<(String, String)> {
    let [parts, others] = [token, other].map(|token| token.split('.').collect::<Vec<_>>());
    [
        ("nothing", String::new()),
        ("a word", "x".to_owned()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{token}.{}", parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("half a signature", token[..token.len() - 40].to_owned()),
        ("another token's signature", format!("{}.{}.{}", parts[0], parts[1], others[2])),
        ("another token's claims", format!("{}.{}.{}", parts[0], others[1], parts[2])),
        ("padding", format!("{token}==")),
        (
            "another alphabet",
            format!("{}.{}.{}", parts[0], parts[1], parts[2].replace(['-', '_'], "+") + "+"),
        ),
        ("two tokens", format!("{token} {token}")),
        ("too long", "x".repeat(5000)),
    ]
    .into_iter()
    .map(|(what, token)| (what.to_owned(), token))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forged_token_is_accepted_over_http_or_nats() {
    let system = System::start().await;
    let admin = system.login("admin@acme.com", "Password123!").await;
    let other = system.login("user@acme.com", "Password123!").await;
    let mint = Mint::of(&system, &admin.token);
    // What is refused below is refused for what was changed: signed anew and unchanged, it is accepted.
    let genuine = mint.sign(&mint.header, &mint.claims);
    system.get("/events", &genuine).await.expect(200);
    system.message_as("events.list", &genuine, json!({})).await.expect(200);
    let mut cases = headers(&mint);
    cases.extend(claims(&mint));
    cases.extend(shapes(&genuine, &other.token));
    assert!(cases.len() >= 60, "{}", cases.len());
    for (what, token) in &cases {
        for answer in [
            system.get("/events", token).await,
            system.get("/auth/me", token).await,
            system.message_as("events.list", token, json!({})).await,
            system.message_as("auth.me", token, json!({})).await,
        ] {
            assert_eq!(answer.status, 401, "{what}: {answer:?}");
            assert_eq!(answer.problem(), "unauthenticated", "{what}");
            // The same for every reason.
            let told = answer.body["detail"].as_str().unwrap();
            assert!(told == "the access token is not valid" || what == "nothing", "{what}: {told}");
        }
    }
    // The same again, now that they may be remembered; and the genuine one still counts.
    for (what, token) in &cases {
        assert_eq!(system.get("/events", token).await.status, 401, "{what}, the second time");
    }
    system.get("/events", &genuine).await.expect(200);
}
