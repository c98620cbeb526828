//! Secrets that go into every password hash and are not in the database: without one, stolen hashes cannot even be
//! tried.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use settings::listed;

/// The longest id, which Argon2 bounds.
const MAX_ID: usize = 8;
/// The shortest pepper, in bytes.
const MIN_SECRET: usize = 32;

/// The peppers that hashes may have been made with; new ones are made with the first.
#[derive(Debug, Clone, Default)]
pub struct Peppers(Vec<Pepper>);

#[derive(Clone)]
struct Pepper {
    id: String,
    secret: SecretString,
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper({})", self.id)
    }
}

/// What stands for no pepper at all.
const NONE: &str = "none";

/// Text that holds no peppers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotPeppers {
    /// One has no id before its colon, or a strange one.
    #[error(
        "expected <id>:<secret>, several separated by commas, or none as the first; an id is 1 to {MAX_ID} letters or digits"
    )]
    Id,
    /// One is too short.
    #[error("a pepper must have at least {MIN_SECRET} bytes")]
    Short,
    /// Two have one id.
    #[error("two peppers have the same id")]
    Repeated,
}

impl FromStr for Peppers {
    type Err = NotPeppers;

    fn from_str(text: &str) -> Result<Self, NotPeppers> {
        let mut peppers: Vec<Pepper> = Vec::new();
        for pair in listed(text) {
            if peppers.is_empty() && pair == NONE {
                // New hashes take none yet: every worker learns of a pepper before the first hash needs it.
                peppers.push(Pepper { id: String::new(), secret: SecretString::default() });
                continue;
            }
            let (id, secret) = pair.split_once(':').ok_or(NotPeppers::Id)?;
            let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !plain || !(1..=MAX_ID).contains(&id.len()) {
                return Err(NotPeppers::Id);
            }
            if secret.len() < MIN_SECRET {
                return Err(NotPeppers::Short);
            }
            if peppers.iter().any(|other| other.id == id) {
                return Err(NotPeppers::Repeated);
            }
            peppers.push(Pepper { id: id.to_owned(), secret: SecretString::from(secret.to_owned()) });
        }
        if peppers.is_empty() { Err(NotPeppers::Id) } else { Ok(Self(peppers)) }
    }
}

impl Peppers {
    /// The id and secret new hashes are made with; both are empty without a pepper.
    pub(crate) fn current(&self) -> (&[u8], &[u8]) {
        self.0.first().map_or((&[], &[]), Pepper::parts)
    }

    /// The secret with this id, empty for the empty id.
    pub(crate) fn secret(&self, id: &[u8]) -> Option<&[u8]> {
        if id.is_empty() {
            return Some(&[]);
        }
        self.0.iter().map(Pepper::parts).find(|(known, _)| *known == id).map(|(_, secret)| secret)
    }

    /// Every secret.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.0.iter().filter(|pepper| !pepper.id.is_empty()).map(|pepper| &pepper.secret)
    }
}

impl Pepper {
    fn parts(&self) -> (&[u8], &[u8]) {
        (self.id.as_bytes(), self.secret.expose_secret().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peppers_are_ids_and_long_secrets() {
        let (long, other) = ("x".repeat(MIN_SECRET), "y".repeat(MIN_SECRET));
        let peppers: Peppers = format!("2026:{long},2025:{other}\n").parse().unwrap();
        assert_eq!(peppers.current(), ("2026".as_bytes(), long.as_bytes()));
        assert_eq!(peppers.secret(b"2025"), Some(other.as_bytes()));
        assert_eq!((peppers.secret(b""), peppers.secret(b"2024")), (Some(&[][..]), None));
        let prepared: Peppers = format!("none,2026:{long}").parse().unwrap();
        assert_eq!(
            (prepared.current(), prepared.secret(b"2026")),
            ((&[][..], &[][..]), Some(long.as_bytes()))
        );
        assert_eq!(prepared.secrets().count(), 1);
        assert_eq!(Peppers::default().current(), (&[][..], &[][..]));
        assert!(!format!("{peppers:?}").contains('x'));
        for (bad, why) in [
            (String::new(), NotPeppers::Id),
            (long.clone(), NotPeppers::Id),
            (format!("a:{long},none"), NotPeppers::Id),
            (format!(":{long}"), NotPeppers::Id),
            (format!("123456789:{long}"), NotPeppers::Id),
            (format!("a b:{long}"), NotPeppers::Id),
            ("a:short".to_owned(), NotPeppers::Short),
            (format!("a:{long},a:{other}"), NotPeppers::Repeated),
        ] {
            assert_eq!(bad.parse::<Peppers>().unwrap_err(), why, "{bad}");
        }
    }
}
