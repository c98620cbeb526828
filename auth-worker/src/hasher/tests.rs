//! Tests of hashing.

use super::*;
use proptest::prelude::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

#[tokio::test]
async fn verifies_what_it_hashed_and_nothing_else() {
    let hasher = Hasher::start(1, Peppers::default()).unwrap();
    let stored = hasher.hash(secret("correct horse"), soon()).await.unwrap();
    assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
    let verify = async |password, stored| hasher.verify(secret(password), stored, soon()).await.unwrap();
    assert_eq!(
        verify("correct horse", Some(stored.clone())).await,
        Verified { matches: true, outdated: false }
    );
    assert!(!verify("wrong horse", Some(stored)).await.matches);
    // As costly as a real one, and never a match.
    assert_eq!(verify("correct horse", None).await, Verified { matches: false, outdated: false });
}

#[tokio::test]
async fn old_parameters_still_verify_and_greedy_ones_are_refused() {
    let hasher = Hasher::start(1, Peppers::default()).unwrap();
    let mut memory = Vec::new();
    let params = Params::new(8, 1, 1, Some(OUTPUT)).unwrap();
    let mut output = [0; OUTPUT];
    derive(&secret("x"), &[1; SALT], &[], params.clone(), &mut memory, &mut output).unwrap();
    let old = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).unwrap(),
        salt: Some(Salt::new(&[1; SALT]).unwrap()),
        hash: Some(Output::new(&output).unwrap()),
    };
    let verified = hasher.verify(secret("x"), Some(old.to_string()), soon()).await.unwrap();
    assert_eq!(verified, Verified { matches: true, outdated: true });
    let greedy = old.to_string().replace("m=8", "m=4194304");
    let refused = hasher.verify(secret("x"), Some(greedy), soon()).await;
    assert!(matches!(refused, Err(HasherError::StoredHash(_))));
    // Too late, and so not even tried.
    let late = hasher.verify(secret("x"), None, Instant::now()).await;
    assert_eq!(late, Err(HasherError::Busy));
    // There is no time for it any more: it would be done after the caller has gone.
    hasher.verify(secret("x"), None, soon()).await.unwrap();
    let hardly = Instant::now() + Duration::from_millis(1);
    assert_eq!(hasher.verify(secret("x"), None, hardly).await, Err(HasherError::Busy));
}

#[tokio::test]
async fn hashes_with_an_older_pepper_or_none_still_verify_and_are_outdated() {
    let (old, new) = (format!("old:{}", "x".repeat(32)), format!("new:{}", "y".repeat(32)));
    let hasher = |peppers: &str| Hasher::start(1, peppers.parse().unwrap()).unwrap();
    let plain = Hasher::start(1, Peppers::default()).unwrap();
    let both = hasher(&format!("{new},{old}"));
    for (made_by, outdated) in [(&plain, true), (&hasher(&old), true), (&both, false)] {
        let stored = made_by.hash(secret("correct horse"), soon()).await.unwrap();
        let verify = async |password| both.verify(secret(password), Some(stored.clone()), soon()).await;
        assert_eq!(verify("correct horse").await, Ok(Verified { matches: true, outdated }), "{stored}");
        assert!(!verify("wrong horse").await.unwrap().matches);
        assert!(!stored.contains("xxxx") && !stored.contains("yyyy"));
    }
    // Without its pepper a hash is of no use, not even with another one under the same name.
    let stored = both.hash(secret("correct horse"), soon()).await.unwrap();
    let refused = plain.verify(secret("correct horse"), Some(stored.clone()), soon()).await;
    assert!(matches!(refused, Err(HasherError::StoredHash(_))), "{refused:?}");
    let other = hasher(&format!("new:{}", "z".repeat(32)));
    assert!(!other.verify(secret("correct horse"), Some(stored), soon()).await.unwrap().matches);
}

#[tokio::test]
async fn what_takes_longer_than_there_is_time_is_not_waited_for() {
    let hasher = Hasher::start(1, Peppers::default()).unwrap();
    let stored = hasher.hash(secret("x"), soon()).await.unwrap();
    let slow = stored.replace("m=19456,t=2", "m=65536,t=10");
    // Of a thread that does not know yet how long one takes.
    let hasher = Hasher::start(1, Peppers::default()).unwrap();
    let in_a_moment = Instant::now() + Duration::from_millis(40);
    assert_eq!(hasher.verify(secret("x"), Some(slow), in_a_moment).await, Err(HasherError::Busy));
}

#[tokio::test]
async fn a_full_queue_says_so_at_once() {
    let hasher = Hasher::start(1, Peppers::default()).unwrap();
    let waiting: Vec<_> =
        (0..QUEUE_PER_THREAD + 8).map(|_| hasher.verify(secret("x"), None, soon())).collect();
    let results = futures_util::future::join_all(waiting).await;
    assert!(results.contains(&Err(HasherError::Busy)));
    assert!(results.iter().any(Result::is_ok));
}

proptest! {
    /// A damaged row never matches, never panics, and never asks for more than the limits allow.
    #[test]
    fn damaged_hashes_are_refused(at: prop::sample::Index, with in "[$=,0-9a-zA-Z+/]{0,3}") {
        let small = "$argon2id$v=19$m=8,t=1,p=1$AQEBAQEBAQEBAQEBAQEBAQ$J2mQqv0Tk4GtdIzt7cnRpuRYHzVxEBC1xSj0MGV7vVw";
        let at = at.index(small.len());
        let damaged = format!("{}{with}{}", &small[..at], &small[at + 1..]);
        let verified = verify(&secret("x"), &damaged, &Peppers::default(), &mut Vec::new());
        prop_assert!(!verified.is_ok_and(|verified| verified.matches), "{damaged}");
    }
}
