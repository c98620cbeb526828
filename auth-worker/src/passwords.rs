//! Which passwords are refused although they are long enough.

use shared::contract::auth::Email;

/// The most common passwords of at least eight characters, one a line, in lower case.
const COMMON: &str = include_str!("common-passwords.txt");

/// Whether `password` is a common one, or made of nothing but what everyone knows about the user.
pub(crate) fn is_blocked(password: &str, email: &Email, names: &[&str]) -> bool {
    let lower = password.to_lowercase();
    let local_part = email.as_str().split('@').next().unwrap_or_default();
    let known = names.iter().copied().chain([email.as_str(), local_part, "eventboard"]);
    COMMON.lines().any(|common| common == lower)
        || known.map(str::to_lowercase).any(|word| word.chars().count() >= 4 && lower == word)
        || lower.chars().all(|character| lower.starts_with(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_repeated_and_own_words_are_blocked() {
        let email = Email::parse("maria.gomez@example.com").unwrap();
        for bad in
            ["password1", "QWERTYUIOP", "aaaaaaaaaaaa", "maria.gomez", "Maria.Gomez@example.com", "Acme Corp"]
        {
            assert!(is_blocked(bad, &email, &["Acme Corp"]), "{bad}");
        }
        for good in ["Password123!", "correct horse battery", "ñandú-größe"] {
            assert!(!is_blocked(good, &email, &["Acme Corp"]), "{good}");
        }
    }

    #[test]
    fn the_list_holds_what_the_length_rule_lets_through() {
        for line in COMMON.lines() {
            assert!(line.chars().count() >= 8 && line == line.to_lowercase(), "{line:?}");
        }
    }
}
