//! `eventboard healthcheck URL`: what a container's health check needs, without curl.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, redirect};

/// How long the whole check may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Succeeds when `GET url` answers 2xx. Plain HTTP only, and past any proxy: health is asked for on the same machine.
///
/// # Errors
/// Another status, no answer within three seconds, or a URL that cannot be asked.
pub async fn healthcheck(url: &str) -> anyhow::Result<()> {
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(TIMEOUT).build()?;
    let answer = client.get(url).send().await.with_context(|| format!("{url} does not answer"))?;
    if !answer.status().is_success() {
        bail!("{url} answers {}", answer.status());
    }
    Ok(())
}
