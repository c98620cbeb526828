//! Standard output is a pipe whose reader has stalled: nobody's work stops.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::ports::free_port;
use crate::harness::process::program;
use crate::harness::{broker, eventually};

/// More lines than fit into the pipe and the queue before it.
const REQUESTS: usize = 8000;

/// A gateway whose standard output nobody reads, with the addresses of its ports.
async fn gateway(nats: &str) -> (Child, String, String) {
    let (http, admin) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let child = Command::new(program("gateway").await)
        .env_clear()
        .env("EVENTBOARD_NATS_URL", nats)
        .env("EVENTBOARD_HTTP", &http)
        .env("EVENTBOARD_ADMIN", &admin)
        .env("EVENTBOARD_RATE_LIMIT_IP", "off")
        .env("EVENTBOARD_DRAIN_DELAY", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, format!("http://{http}"), format!("http://{admin}"))
}

async fn ask_often(http: &str) {
    let client = reqwest::Client::new();
    let ask = async |count: usize| {
        for _ in 0..count {
            let answer = client.get(format!("{http}/nowhere")).send().await.unwrap();
            assert_eq!(answer.status(), 404);
        }
    };
    let asking = futures_util::future::join_all((0..16).map(|_| ask(REQUESTS / 16)));
    tokio::time::timeout(Duration::from_secs(60), asking).await.expect("requests are answered");
    assert_eq!(client.get(format!("{http}/livez")).send().await.unwrap().status(), 200);
}

async fn is_up(http: &str) -> bool {
    reqwest::get(format!("{http}/livez")).await.is_ok_and(|answer| answer.status() == 200)
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_stalled_stops_neither_requests_nor_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker::start(directory.path(), None).await;
    let (mut child, http, _) = gateway(&broker.url()).await;
    eventually("the gateway answers", || is_up(&http)).await;
    ask_often(&http).await;
    terminate(&child);
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    assert!(ended.expect("it ends").unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stalled_reader_has_missed_is_counted_and_said_once_it_reads_again() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker::start(directory.path(), None).await;
    let (mut child, http, admin) = gateway(&broker.url()).await;
    eventually("the gateway answers", || is_up(&http)).await;
    ask_often(&http).await;
    let metrics = reqwest::get(format!("{admin}/metrics")).await.unwrap().text().await.unwrap();
    let count = metrics.lines().find_map(|line| {
        line.starts_with("eventboard_log_dropped").then(|| line.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    let count = count.expect("a count of dropped lines");
    assert!(count > 0.0, "{metrics}");

    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = None;
    while said.is_none() {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await;
        let line: Value = serde_json::from_str(&line.expect("a line").unwrap().expect("a line")).unwrap();
        said = line["dropped"].as_f64();
    }
    assert_eq!(said, Some(count));
    terminate(&child);
    let mut last = Value::Null;
    while let Some(line) = lines.next_line().await.unwrap() {
        last = serde_json::from_str(&line).unwrap();
    }
    assert!(last["message"].as_str().is_some(), "the last lines are written: {last}");
    assert!(child.wait().await.unwrap().success());
}
