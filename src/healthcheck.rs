//! `eventboard healthcheck URL`: what a container's health check needs, without curl.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the whole check may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The status line is short; the rest of the answer does not matter.
const MAX_HEAD: u64 = 1024;

/// Succeeds when `GET url` answers 2xx. Plain HTTP only: health is asked for on the same machine.
///
/// # Errors
/// Another status, no answer within three seconds, or a URL that is not `http://host:port/path`.
pub async fn healthcheck(url: &str) -> anyhow::Result<()> {
    let rest = url.strip_prefix("http://").context("the URL must begin with http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let answer = tokio::time::timeout(TIMEOUT, ask(authority, path)).await;
    let head = answer.with_context(|| format!("{url} does not answer"))??;
    match head.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        Some(status) => bail!("{url} answers {status}"),
        None => bail!("{url} does not answer in HTTP"),
    }
}

async fn ask(authority: &str, path: &str) -> anyhow::Result<String> {
    let mut stream =
        TcpStream::connect(authority).await.with_context(|| format!("cannot connect to {authority}"))?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    stream.take(MAX_HEAD).read_to_end(&mut head).await?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}
