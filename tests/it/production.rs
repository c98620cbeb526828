//! What `EVENTBOARD_ENV=production` refuses, by name and all at once, and that no secret is ever shown.

use std::path::Path;
use std::process::Output;

use clap::Parser;
use shared::settings::Refused;

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
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPRODUCTION\n-----END PRIVATE KEY-----\n";

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
const SIGNING: &[(&str, &str)] = &[("signing-key", KEY)];

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
        "auth-worker" => AuthWorker::try_parse_from(arguments(&[COMMON, DATABASE, SIGNING], change))
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
        assert!(shown(&refused).contains("cannot read /nowhere/secret"), "{service}: {refused:?}");
    }
    let mut production = secrets.to_vec();
    production.push(("EVENTBOARD_ENV", "production"));
    for service in ALL {
        shown(&run(service, &[], &production).await);
    }
    assert!(Path::new(file).exists());
}
