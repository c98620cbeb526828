//! What becomes of a password before it is hashed, and which passwords are refused.

use contract::auth::{Email, RefusedPassword, Secret};
use unicode_normalization::UnicodeNormalization;

/// The most common passwords of at least eight characters, one a line, in lower case: Django's list (see the
/// licence beside it) and a few more.
const COMMON: &str = include_str!("common-passwords.txt");
/// How many code points a password may have (NIST SP 800-63B-4 asks for at least 8 beside another factor).
const LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// The form that is hashed: NFKC, so that a password is the same however a keyboard composes it.
pub(crate) fn normalized(password: &Secret) -> Secret {
    Secret::new(password.expose().nfkc().collect())
}

/// Whether a new password may be used by a user with this `email` and these `names`. Returns the form that is
/// hashed.
///
/// # Errors
/// [`RefusedPassword`], which says why.
pub(crate) fn accept(password: &Secret, email: &Email, names: &[&str]) -> Result<Secret, RefusedPassword> {
    let composed = normalized(password);
    let lower = composed.expose().to_lowercase();
    if !LENGTH.contains(&composed.expose().chars().count()) {
        return Err(RefusedPassword::Length);
    }
    if lower.chars().all(|character| lower.starts_with(character)) {
        return Err(RefusedPassword::Repeated);
    }
    if COMMON.lines().any(|common| common == lower) {
        return Err(RefusedPassword::Common);
    }
    let local_part = email.as_str().split('@').next().unwrap_or_default();
    let known = names.iter().copied().chain([email.as_str(), local_part, "eventboard"]).map(essence);
    let password = essence(&lower);
    if known.into_iter().any(|word| word.chars().count() >= 4 && word == password) {
        return Err(RefusedPassword::Personal);
    }
    Ok(composed)
}

/// Letters and digits in lower case, without the digits at the end, which are what people add.
fn essence(text: &str) -> String {
    let plain: String = text.to_lowercase().chars().filter(|character| character.is_alphanumeric()).collect();
    plain.trim_end_matches(char::is_numeric).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn refused_passwords_say_why() {
        let email = Email::parse("maria.gomez@example.com").unwrap();
        let judge = |password: &str| accept(&secret(password), &email, &["María", "Acme Corp"]).map(drop);
        for (password, why) in [
            ("password1", RefusedPassword::Common),
            ("QWERTYUIOP", RefusedPassword::Common),
            ("ｐａｓｓｗｏｒｄ１", RefusedPassword::Common),
            ("aaaaaaaaaaaa", RefusedPassword::Repeated),
            ("maria.gomez", RefusedPassword::Personal),
            ("Maria.Gomez@example.com", RefusedPassword::Personal),
            ("Acme-Corp-2026", RefusedPassword::Personal),
            ("EventBoard!", RefusedPassword::Personal),
            // Eight code points as typed, seven once composed.
            ("n\u{303}andu12", RefusedPassword::Length),
            (&"x1".repeat(65), RefusedPassword::Length),
        ] {
            assert_eq!(judge(password), Err(why), "{password}");
        }
        // Each ligature is several letters once composed.
        assert_eq!(judge(&"ﬃ".repeat(43)), Err(RefusedPassword::Length));
        for good in ["Password123!", "correct horse battery", "ñandú-größe", "maria gomez likes tea"] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn equal_spellings_become_one() {
        for (typed, composed_form) in
            [("n\u{303}andu\u{301}", "ñandú"), ("ｆｕｌｌ", "full"), ("ﬁn", "fin"), ("plain", "plain")]
        {
            assert_eq!(normalized(&secret(typed)).expose(), composed_form);
        }
    }

    #[test]
    fn the_list_holds_what_the_length_rule_lets_through() {
        assert!(COMMON.lines().count() > 8000);
        for line in COMMON.lines() {
            assert!(line.chars().count() >= 8 && line == line.to_lowercase(), "{line:?}");
        }
    }
}
