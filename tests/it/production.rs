//! What `EVENTBOARD_ENV=production` refuses, by name and all at once, and that no secret is ever shown.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use settings::Refused;

use crate::harness::broker::password;
use crate::harness::process::program;

#[derive(Parser)]
struct Gateway {
    #[command(flatten)]
    config: gateway::Config,
}

#[derive(Parser)]
struct AuthWorker {
    #[command(flatten)]
    config: auth_worker::Config,
}

#[derive(Parser)]
struct EventsWorker {
    #[command(flatten)]
    config: events_worker::Config,
}

const NATS_PASSWORD: &str = "k3YtqT0bW8rXn5vUe1cPz7LhGd2MfSaJ";
const DATABASE_PASSWORD: &str = "Zp4WcN8vQ1sRj6KxB3mTf7HyLd0EgUaO";

/// A key that was made at random.
static KEY: LazyLock<String> = LazyLock::new(|| {
    let random = aws_lc_rs::rand::SystemRandom::new();
    pem(aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref())
});

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

/// The key with this seed.
fn key_of(seed: [u8; 32]) -> String {
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pem(&[&head[..], &seed].concat())
}

/// Settings that every service accepts.
const COMMON: &[(&str, &str)] = &[
    ("env", "production"),
    ("nats-url", "tls://nats.internal:4222"),
    ("nats-user", "somebody"),
    ("nats-password", NATS_PASSWORD),
];
const GATEWAY: &[(&str, &str)] = &[("cors-origins", "https://app.example.com")];
const DATABASE: &[(&str, &str)] = &[
    ("database-url", "postgres://app@db.internal/app?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem"),
    ("database-password", DATABASE_PASSWORD),
];

/// The command line of `settings`, with one setting replaced, or removed when it is empty.
fn arguments(settings: &[&[(&str, &str)]], (name, value): (&str, &str)) -> Vec<String> {
    let kept = settings.iter().copied().flatten().filter(|(other, _)| *other != name);
    let changed = [(name, value)];
    let all = kept.chain(changed.iter().filter(|(_, value)| !value.is_empty()));
    let given = all.map(|(name, value)| format!("--{name}={value}"));
    std::iter::once("program".to_owned()).chain(given).collect()
}

fn check(service: &str, change: (&str, &str)) -> Result<(), Refused> {
    match service {
        "gateway" => Gateway::try_parse_from(arguments(&[COMMON, GATEWAY], change)).unwrap().config.check(),
        "auth-worker" => AuthWorker::try_parse_from(arguments(
            &[COMMON, DATABASE, &[("signing-key", KEY.as_str())]],
            change,
        ))
        .unwrap()
        .config
        .check(),
        _ => EventsWorker::try_parse_from(arguments(&[COMMON, DATABASE], change)).unwrap().config.check(),
    }
}

const ALL: [&str; 3] = ["gateway", "auth-worker", "events-worker"];
const WORKERS: [&str; 2] = ["auth-worker", "events-worker"];

#[test]
fn each_weak_setting_is_refused_by_its_variable() {
    for service in ALL {
        assert_eq!(check(service, ("env", "production")), Ok(()), "{service}");
    }
    let sample = password("gateway");
    let sample_key = std::fs::read_to_string("deploy/sample-secrets/signing-key.pem").unwrap();
    let base64: String = sample_key.lines().filter(|line| !line.starts_with("--")).collect();
    let sample_wrapped = pem(&STANDARD.decode(&base64).unwrap())
        .replace(&base64, &format!("{}\n  {}", &base64[..20], &base64[20..]));
    let mut counting = [0; 32];
    counting.iter_mut().zip(7..).for_each(|(byte, count)| *byte = count);
    let (repeated, counting) = (key_of([0x5a; 32]), key_of(counting));
    let cases: &[(&[&str], &str, &str, &str)] = &[
        (&ALL, "nats-url", "", "EVENTBOARD_NATS_URL is required"),
        (&ALL, "nats-url", "nats://nats.internal:4222", "EVENTBOARD_NATS_URL is not encrypted"),
        (&ALL, "nats-url", "tls://a:4222,nats://b:4222", "EVENTBOARD_NATS_URL is not encrypted"),
        (&ALL, "nats-url", "tls://user:secret@nats:4222", "EVENTBOARD_NATS_URL holds a password"),
        (&ALL, "nats-user", "", "EVENTBOARD_NATS_USER or EVENTBOARD_NATS_CREDS is required"),
        (&ALL, "nats-password", "", "EVENTBOARD_NATS_PASSWORD is required"),
        (&ALL, "nats-password", "short", "EVENTBOARD_NATS_PASSWORD is shorter"),
        (&ALL, "nats-password", &sample, "EVENTBOARD_NATS_PASSWORD is a sample"),
        (&["gateway"], "cors-origins", "", "EVENTBOARD_CORS_ORIGINS is *"),
        (&["gateway"], "cors-origins", "https://a.example,*", "EVENTBOARD_CORS_ORIGINS is *"),
        (&WORKERS, "demo", "true", "EVENTBOARD_DEMO would create users"),
        (&WORKERS, "database-url", "", "EVENTBOARD_DATABASE_URL is required"),
        (&WORKERS, "database-url", "mysql://x/y", "EVENTBOARD_DATABASE_URL expected"),
        (&WORKERS, "database-url", "postgres://app@db/app", "EVENTBOARD_DATABASE_URL is not encrypted"),
        (
            &WORKERS,
            "database-url",
            "postgres://app@db/app?sslmode=prefer",
            "EVENTBOARD_DATABASE_URL is not encrypted",
        ),
        (
            &WORKERS,
            "database-url",
            "postgres://app:secret@db/app?sslmode=require",
            "EVENTBOARD_DATABASE_URL holds a password",
        ),
        (
            &WORKERS,
            "database-password",
            NATS_PASSWORD,
            "EVENTBOARD_DATABASE_PASSWORD is the same as EVENTBOARD_NATS_PASSWORD",
        ),
        (&["auth-worker"], "signing-key", "", "EVENTBOARD_SIGNING_KEY is required"),
        (&["auth-worker"], "signing-key", &sample_key, "EVENTBOARD_SIGNING_KEY is a sample"),
        (&["auth-worker"], "signing-key", &sample_wrapped, "EVENTBOARD_SIGNING_KEY is a sample"),
        (&["auth-worker"], "signing-key", &repeated, "EVENTBOARD_SIGNING_KEY was not made at random"),
        (&["auth-worker"], "signing-key", &counting, "EVENTBOARD_SIGNING_KEY was not made at random"),
        (&["auth-worker"], "signing-key", " ", "EVENTBOARD_SIGNING_KEY is no Ed25519 private key"),
        (&["auth-worker"], "signing-key", "garbage", "EVENTBOARD_SIGNING_KEY is no Ed25519 private key"),
        (&["auth-worker"], "password-pepper", "garbage", "EVENTBOARD_PASSWORD_PEPPER expected"),
    ];
    for (services, name, value, refusal) in cases {
        for service in *services {
            let refused = check(service, (name, value)).expect_err(refusal).to_string();
            assert!(refused.contains(refusal), "{service}: {refused}");
            assert_eq!(refused.lines().count(), 2, "{service}: {refused}");
        }
    }
}

#[test]
fn the_same_settings_are_fine_in_development() {
    for service in ALL {
        assert_eq!(check(service, ("env", "development")), Ok(()), "{service}");
    }
    assert_eq!(EventsWorker::parse_from(["program"]).config.check(), Ok(()));
}

async fn run(service: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    tokio::process::Command::new(program(service).await)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_process_names_everything_and_ends_with_a_configuration_error() {
    for service in ALL {
        let output =
            run(service, &[], &[("EVENTBOARD_ENV", "production"), ("EVENTBOARD_DEMO", "true")]).await;
        assert_eq!(output.status.code(), Some(78), "{service}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let mut expected = vec!["EVENTBOARD_NATS_URL", "EVENTBOARD_NATS_USER"];
        expected.extend(match service {
            "gateway" => &["EVENTBOARD_CORS_ORIGINS"][..],
            "auth-worker" => &["EVENTBOARD_DATABASE_URL", "EVENTBOARD_SIGNING_KEY", "EVENTBOARD_DEMO"],
            _ => &["EVENTBOARD_DATABASE_URL", "EVENTBOARD_DEMO"],
        });
        for variable in expected {
            assert!(said.contains(variable), "{service} does not name {variable}: {said}");
        }
    }
    let output = run("eventboard", &["provision"], &[("EVENTBOARD_ENV", "production")]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("EVENTBOARD_NATS_URL"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_value_is_told_by_the_variable_it_came_from() {
    for (service, variable, value) in [
        ("gateway", "EVENTBOARD_CORS_ORIGINS", "https://app.example/path"),
        ("gateway", "EVENTBOARD_HTTP", "nowhere"),
        ("gateway", "EVENTBOARD_RATE_LIMIT_IP", "many"),
        ("gateway", "EVENTBOARD_ENV", "staging"),
        ("gateway", "EVENTBOARD_IDLE_TIMEOUT", "0"),
        ("gateway", "EVENTBOARD_HEADER_TIMEOUT", "100000"),
        ("events-worker", "EVENTBOARD_DATABASE_CONNECTIONS", "0"),
        ("events-worker", "EVENTBOARD_DATABASE_URL", "mysql://x/y"),
        ("eventboard", "EVENTBOARD_EVENTS_DATABASE_URL", "mysql://x/y"),
    ] {
        let refused = run(service, &[], &[(variable, value)]).await;
        assert_eq!(refused.status.code(), Some(78), "{service} {variable}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(variable), "{service}: {said}");
    }
    // On the command line it is a wrong argument.
    let refused = run("gateway", &["--http", "nowhere"], &[("EVENTBOARD_HTTP", "127.0.0.1:0")]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    // One that is no text is refused, too, whatever else is wrong.
    let mut program = tokio::process::Command::new(program("gateway").await);
    program.arg(OsStr::from_bytes(b"\xff")).env_clear().env("EVENTBOARD_HTTP", "nowhere").kill_on_drop(true);
    let refused = program.output().await.unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_from_one_place_and_are_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, format!("{NATS_PASSWORD}\n")).unwrap();
    let file = file.to_str().unwrap();
    let secrets = [
        ("EVENTBOARD_NATS_PASSWORD", NATS_PASSWORD),
        ("EVENTBOARD_DATABASE_PASSWORD", DATABASE_PASSWORD),
        ("EVENTBOARD_DATABASE_URL", "postgres://app:hunter2hunter2@db.internal/app"),
        ("EVENTBOARD_SIGNING_KEY", "hunter3hunter3"),
    ];
    let shown = |output: &Output| {
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        for secret in [NATS_PASSWORD, DATABASE_PASSWORD, "hunter2hunter2", "hunter3hunter3"] {
            assert!(!said.contains(secret), "{said}");
        }
        said
    };
    for service in ["gateway", "auth-worker", "events-worker", "eventboard"] {
        let help = run(service, &["--help"], &secrets).await;
        assert!(shown(&help).contains("EVENTBOARD_NATS_PASSWORD_FILE"));
        let mut both = secrets.to_vec();
        both.push(("EVENTBOARD_NATS_PASSWORD_FILE", file));
        let refused = run(service, &[], &both).await;
        assert_eq!(refused.status.code(), Some(2), "{service}: {refused:?}");
        assert!(shown(&refused).contains("--nats-password"));
        let missing = [("EVENTBOARD_NATS_PASSWORD_FILE", "/nowhere/secret")];
        let refused = run(service, &[], &missing).await;
        assert_eq!(refused.status.code(), Some(78), "{service}: {refused:?}");
        assert!(
            shown(&refused)
                .contains("EVENTBOARD_NATS_PASSWORD_FILE names /nowhere/secret, which cannot be read"),
            "{service}: {refused:?}"
        );
    }
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    let unusable = [
        ("EVENTBOARD_NATS_PASSWORD_FILE", empty),
        ("EVENTBOARD_DATABASE_PASSWORD_FILE", "/nowhere/database"),
        ("EVENTBOARD_SIGNING_KEY_FILE", file),
        ("EVENTBOARD_PASSWORD_PEPPER_FILE", file),
    ];
    let refused = run("auth-worker", &[], &unusable).await;
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(said.lines().count(), 5, "everything is said at once: {said}");
    for line in [
        "EVENTBOARD_NATS_PASSWORD_FILE names",
        "EVENTBOARD_DATABASE_PASSWORD_FILE names",
        "EVENTBOARD_SIGNING_KEY is no",
        "EVENTBOARD_PASSWORD_PEPPER expected",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let mut production = secrets.to_vec();
    production.push(("EVENTBOARD_ENV", "production"));
    for service in ALL {
        shown(&run(service, &[], &production).await);
    }
    assert!(Path::new(file).exists());
}
