//! What surrounds one request: its ids, its verified caller, its deadline, its preconditions.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::auth::{OrganizationId, Role, SessionId, UserId};
use super::{Failure, IdempotentRequest, Timestamp, TraceContext};

/// The id a request is found by, in every log line and span of every process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CorrelationId(Arc<str>);

impl CorrelationId {
    /// Accepts `[A-Za-z0-9._-]{1,128}`, nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        ((1..=128).contains(&text.len()) && text.bytes().all(legal)).then(|| Self(text.into()))
    }

    /// A new UUIDv7.
    pub fn mint() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// The id as text that needs no copy.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The id as text, safe in headers and log lines.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a request is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestIds {
    /// In every log line and span of every process.
    pub correlation_id: CorrelationId,
    /// The span that answers it.
    pub trace: TraceContext,
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name a client gives to one intended write, so that repeating it repeats nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads the header value: a quoted sf-string (RFC 9651) or a bare token, 1–255 printable
    /// ASCII characters, both spellings of one key being equal.
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim_matches([' ', '\t']);
        let key = match value.strip_prefix('"') {
            None => {
                let bare = value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
                bare.then(|| value.to_owned())?
            }
            Some(quoted) => {
                let mut key = String::with_capacity(quoted.len());
                let mut characters = quoted.strip_suffix('"')?.chars();
                while let Some(character) = characters.next() {
                    match character {
                        '\\' => key.push(characters.next().filter(|next| matches!(next, '"' | '\\'))?),
                        ' '..='~' if character != '"' => key.push(character),
                        _ => return None,
                    }
                }
                key
            }
        };
        (1..=255).contains(&key.len()).then_some(Self(key))
    }

    /// A new UUIDv7.
    pub fn mint() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// The key without its quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as an sf-string, the form that can carry every key.
    pub fn to_header(&self) -> String {
        format!("\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// A strong entity tag: the version of the representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntityTag(pub i64);

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// The value of `If-Match` or `If-None-Match` (RFC 9110 §13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// `*`: any current representation.
    Any,
    /// One of these opaque tags, each with its weakness.
    OneOf(Vec<(bool, String)>),
}

impl Precondition {
    /// Reads the header value; `None` when it is malformed.
    pub fn parse(value: &str) -> Option<Self> {
        let mut rest = value.trim();
        if rest == "*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            // Empty elements do not count (RFC 9110 §5.6.1.2), but one must be there.
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() && !tags.is_empty() {
                return Some(Self::OneOf(tags));
            }
            let (weak, tagged) = match rest.strip_prefix("W/") {
                Some(tagged) => (true, tagged),
                None => (false, rest),
            };
            let (tag, after) = tagged.strip_prefix('"')?.split_once('"')?;
            tags.push((weak, tag.to_owned()));
            rest = after.trim_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
    }

    /// Strong comparison, as `If-Match` asks for: a weak tag never matches.
    pub fn matches_strongly(&self, current: EntityTag) -> bool {
        self.matches(current, false)
    }

    /// Weak comparison, as `If-None-Match` asks for.
    pub fn matches_weakly(&self, current: EntityTag) -> bool {
        self.matches(current, true)
    }

    fn matches(&self, current: EntityTag, weak_counts: bool) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(tags) => {
                let current = current.0.to_string();
                tags.iter().any(|(weak, tag)| (weak_counts || !weak) && *tag == current)
            }
        }
    }
}

/// Where a client is: one IPv4 address, or the network that one subscriber of IPv6 has. Masked in `Debug`: it is
/// personal data.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

impl ClientNetwork {
    /// The network of a client's address: a /56 of IPv6.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 56))))
            }
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }

    /// Reads the first address of a network.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::of)
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientNetwork(…)")
    }
}

/// The verified caller. Built from a verified access token and from nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user_id: UserId,
    /// The user's organisation: the only source of tenancy anywhere.
    pub organization_id: OrganizationId,
    /// The user's role within the organisation.
    pub role: Role,
    /// The session the token belongs to.
    pub session_id: SessionId,
    /// The version of the user's tokens: a role that changes makes a new one.
    pub token_version: i64,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// One request as a handler sees it.
#[derive(Debug, Clone)]
pub struct Context {
    /// What this request is found by.
    pub ids: RequestIds,
    /// When the message was taken up; logic uses this instead of reading a clock.
    pub now: Timestamp,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// The write that a key names, when one was sent along with an operation that keeps answers.
    pub write: Option<IdempotentRequest>,
    /// The version the client believes it is changing.
    pub if_match: Option<Precondition>,
    /// The versions the client already holds.
    pub if_none_match: Option<Precondition>,
    /// The verified caller; `None` on public operations.
    pub principal: Option<Principal>,
    /// Where the client is, if a gateway has said so.
    pub client_network: Option<ClientNetwork>,
    /// The most bytes that the body of the reply may have.
    pub max_reply: usize,
}

/// What is left of a caller's time for the answer to arrive.
const REPLY_MARGIN: Duration = Duration::from_millis(150);

/// Until when work may wait for its turn at `now`, so that a caller who waits until `deadline` still learns that
/// nothing was done.
pub fn begin_by(deadline: Instant, now: Instant) -> Instant {
    let remaining = deadline.saturating_duration_since(now);
    now + (remaining - REPLY_MARGIN.min(remaining / 4))
}

impl Context {
    /// The verified caller.
    ///
    /// # Errors
    /// [`Failure::Unauthenticated`] on a public operation called without a token.
    pub fn principal<E>(&self) -> Result<&Principal, Failure<E>> {
        self.principal.as_ref().ok_or(Failure::Unauthenticated("an access token is required"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn correlation_ids_are_kept_or_refused() {
        for good in ["test-123", "A.b_c-9", &"x".repeat(128)] {
            assert_eq!(CorrelationId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", " x", "a b", "a\r\nb", "é", &"x".repeat(129)] {
            assert!(CorrelationId::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn both_spellings_of_a_key_are_equal() {
        let key = |value| IdempotencyKey::parse(value).map(|key| key.as_str().to_owned());
        assert_eq!(key("submit-123"), key("\"submit-123\""));
        assert_eq!(key("\"a \\\"b\\\\\"").as_deref(), Some("a \"b\\"));
        for bad in ["", "\"\"", "\"open", "a b", "\"a\\b\"", "\"a\"b\"", "é", "\"\t\"", &"x".repeat(256)] {
            assert_eq!(key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn preconditions_compare_as_rfc_9110_says() {
        let three = EntityTag(3);
        let parse = |value| Precondition::parse(value).unwrap();
        assert!(parse("\"3\"").matches_strongly(three));
        assert!(parse("\"2\", \"3\"").matches_strongly(three));
        assert!(!parse("W/\"3\"").matches_strongly(three));
        assert!(parse("W/\"3\"").matches_weakly(three));
        assert!(parse("*").matches_strongly(three));
        for list in ["\"3\",", ",\"3\"", " , ,\"2\",, \"3\" ,"] {
            assert!(parse(list).matches_strongly(three), "{list:?}");
        }
        for bad in ["", ",", " , ", "3", "\"3", "\"3\" \"4\"", "\"3\", 4", "*, \"3\""] {
            assert_eq!(Precondition::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn one_subscriber_of_ipv6_has_one_network() {
        let network = |text: &str| ClientNetwork::parse(text).unwrap().to_string();
        assert_eq!(network("2001:db8:1:2ff:a:b:c:d"), "2001:db8:1:200::");
        assert_eq!(network("2001:db8:1:2aa::1"), network("2001:db8:1:2bb::1"));
        assert_ne!(network("2001:db8:1:2aa::1"), network("2001:db8:1:3aa::1"));
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(ClientNetwork::parse("192.0.2.1/32"), None);
    }

    proptest! {
        #[test]
        fn keys_survive_their_header(key in "[ -~]{1,255}") {
            let quoted = IdempotencyKey(key.clone()).to_header();
            let read = IdempotencyKey::parse(&quoted).unwrap();
            prop_assert_eq!(read.as_str(), key.as_str());
        }

        #[test]
        fn any_header_text_is_read_or_refused(text in "\\PC{0,300}") {
            let _ = (IdempotencyKey::parse(&text), Precondition::parse(&text), CorrelationId::parse(&text));
        }
    }
}
