//! How many requests one client may make: GCRA per user and per address, reported in the headers of
//! draft-ietf-httpapi-ratelimit-headers.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contract::{ClientNetwork, Problem, ProblemType};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::headers::{RATE_LIMIT, RATE_LIMIT_POLICY};
use crate::problem::ProblemResponse;
use crate::state::AppState;

/// Clients that have been quiet long enough to have their whole quota are forgotten this often.
const FORGET_INTERVAL: Duration = Duration::from_secs(10);
/// The header to which each proxy appends the address of its client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// A setting: `off`, or requests per second and at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimit {
    /// No limit.
    Off,
    /// This many per second, and a burst of that many after a pause.
    At {
        /// Requests per second.
        per_second: NonZeroU32,
        /// Requests at once.
        burst: NonZeroU32,
    },
}

/// Text that is no rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected <per second>:<burst>, both at least 1, or off")]
pub struct NotARateLimit;

impl FromStr for RateLimit {
    type Err = NotARateLimit;

    fn from_str(text: &str) -> Result<Self, NotARateLimit> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let (per_second, burst) = text.split_once(':').ok_or(NotARateLimit)?;
        let number = |text: &str| text.parse().map_err(|_| NotARateLimit);
        Ok(Self::At { per_second: number(per_second)?, burst: number(burst)? })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At { per_second, burst } => write!(f, "{per_second}:{burst}"),
        }
    }
}

/// The requests of each client, by `K`.
#[derive(Debug)]
pub(crate) struct Limiter<K: Hash + Eq + Clone> {
    policy: &'static str,
    limit: Option<Limit<K>>,
}

#[derive(Debug)]
struct Limit<K: Hash + Eq + Clone> {
    clients: RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>,
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

/// A client's quota, as headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RateLimitHeaders {
    policy: String,
    limit: String,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    pub(crate) fn new(policy: &'static str, limit: RateLimit) -> Self {
        let limit = match limit {
            RateLimit::Off => None,
            RateLimit::At { per_second, burst } => {
                let quota = Quota::per_second(per_second).allow_burst(burst);
                let clients = RateLimiter::dashmap(quota).with_middleware();
                Some(Limit { clients, per_second, burst })
            }
        };
        Self { policy, limit }
    }

    /// Counts a request of `client`. Says what is left, and whether it was one too many.
    pub(crate) fn count(&self, client: &K) -> (Option<RateLimitHeaders>, Result<(), Problem>) {
        let Some(limit) = &self.limit else { return (None, Ok(())) };
        let (left, verdict) = match limit.clients.check_key(client) {
            Ok(snapshot) => (snapshot.remaining_burst_capacity(), Ok(())),
            Err(refused) => {
                let wait = refused.wait_time_from(limit.clients.clock().now());
                let rule = format!(
                    "at most {} requests per second, and {} at once, per {}",
                    limit.per_second, limit.burst, self.policy
                );
                (0, Err(Problem::new(ProblemType::RateLimited, rule).with_retry_after(wait)))
            }
        };
        let seconds = |requests: u32| requests.div_ceil(limit.per_second.get());
        let (policy, burst) = (self.policy, limit.burst.get());
        let quoted = RateLimitHeaders {
            policy: format!("\"{policy}\";q={burst};w={}", seconds(burst)),
            limit: format!("\"{policy}\";r={left};t={}", seconds(burst.saturating_sub(left))),
        };
        (Some(quoted), verdict)
    }

    /// Forgets clients that have their whole quota, again and again: what is remembered is bounded by the
    /// requests of the last moments.
    pub(crate) async fn forget_quiet_clients(&self) -> ! {
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            if let Some(limit) = &self.limit {
                limit.clients.retain_recent();
                limit.clients.shrink_to_fit();
            }
        }
    }
}

impl RateLimitHeaders {
    /// Adds itself to a response, beside the other quotas.
    pub(crate) fn append_to(&self, headers: &mut HeaderMap) {
        for (name, value) in [(RATE_LIMIT, &self.limit), (RATE_LIMIT_POLICY, &self.policy)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.append(name, value);
            }
        }
    }
}

/// Counts a request for the network it comes from, and notes that with it.
pub(crate) async fn limit_address(
    State(gateway): State<std::sync::Arc<AppState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = client_address(peer.ip(), request.headers(), gateway.trusted_hops);
    let network = ClientNetwork::of(address);
    let (quoted, verdict) = gateway.addresses.count(&network);
    request.extensions_mut().insert(network);
    let mut response = match verdict {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            gateway.upstream.metrics().rejected("gateway", "rate_limit_ip");
            ProblemResponse(problem).into_response()
        }
    };
    if let Some(quoted) = quoted {
        quoted.append_to(response.headers_mut());
    }
    response
}

/// Where a request comes from: the peer, or, behind proxies of our own, who the outermost of them spoke to.
/// What stands further left was written by the client, and is not believed.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted_hops: usize) -> IpAddr {
    if trusted_hops == 0 {
        return peer;
    }
    // At every comma, whatever quotes and bytes a client has put before what proxies append: addresses have none.
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    // Fewer than there are proxies: it did not come through them.
    hops.filter(|hop| !hop.is_empty()).nth(trusted_hops - 1).and_then(address).unwrap_or(peer)
}

/// The address in an entry: some proxies add the port, put IPv6 in brackets, or quote it as in `Forwarded`.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim_matches('"');
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_two_numbers_or_off() {
        assert_eq!("off".parse(), Ok(RateLimit::Off));
        assert_eq!("200:400".parse::<RateLimit>().unwrap().to_string(), "200:400");
        for bad in ["", "200", "0:1", "1:0", "-1:1", "a:b", "1:2:3", "OFF"] {
            assert_eq!(bad.parse::<RateLimit>(), Err(NotARateLimit), "{bad}");
        }
    }

    #[test]
    fn a_burst_is_granted_then_the_rate_and_the_headers_say_what_is_left() {
        let limiter = Limiter::new("user", "1:3".parse().unwrap());
        let quota = |left, after| {
            Some(RateLimitHeaders {
                policy: "\"user\";q=3;w=3".to_owned(),
                limit: format!("\"user\";r={left};t={after}"),
            })
        };
        for (left, after) in [(2, 1), (1, 2), (0, 3)] {
            assert_eq!(limiter.count(&1), (quota(left, after), Ok(())));
        }
        let (quoted, verdict) = limiter.count(&1);
        assert_eq!(quoted, quota(0, 3));
        let problem = verdict.unwrap_err();
        assert_eq!((problem.kind, problem.retry_after), (ProblemType::RateLimited, Some(1)));
        assert_eq!(limiter.count(&2).1, Ok(()), "another client has a quota of its own");
        assert_eq!(Limiter::new("user", RateLimit::Off).count(&1), (None, Ok(())));
    }

    #[test]
    fn only_what_our_own_proxies_wrote_is_believed() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let address = |lines: &[&str], hops| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
            }
            client_address(peer, &headers, hops).to_string()
        };
        assert_eq!(address(&["1.1.1.1"], 0), "10.0.0.1");
        assert_eq!(address(&["6.6.6.6, 1.1.1.1"], 1), "1.1.1.1");
        assert_eq!(address(&["6.6.6.6", "1.1.1.1"], 1), "1.1.1.1");
        assert_eq!(address(&["6.6.6.6, 1.1.1.1, 10.0.0.9"], 2), "1.1.1.1");
        assert_eq!(address(&["1.1.1.1:4711"], 1), "1.1.1.1");
        // What a client has written changes nothing of what stands behind it.
        for written in ["\"", "6.6.6.6, \"", "é", "a\\", ",,", "\"6.6.6.6, 7.7.7.7\""] {
            assert_eq!(address(&[&format!("{written}, 1.1.1.1")], 1), "1.1.1.1", "{written}");
            assert_eq!(address(&[&format!("{written}, 1.1.1.1, 10.0.0.9")], 2), "1.1.1.1", "{written}");
        }
        assert_eq!(address(&["[2001:db8::1]:4711"], 1), "2001:db8::1");
        assert_eq!(address(&["[2001:db8::1]"], 1), "2001:db8::1");
        assert_eq!(address(&["\"[2001:db8::1]\""], 1), "2001:db8::1");
        assert_eq!(address(&["6.6.6.6, 1.1.1.1, "], 1), "1.1.1.1");
        for nothing in [&[][..], &["1.1.1.1"], &["nonsense, 10.0.0.9"]] {
            assert_eq!(address(nothing, 2), "10.0.0.1", "{nothing:?}");
        }
    }
}
