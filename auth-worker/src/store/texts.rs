//! Statements that bring texts of an earlier version into the form in which they are compared; both databases take them.

/// Organisations whose name's form is not known.
pub(super) const OLD_NAMES: &str = "SELECT id, name FROM organizations WHERE name_key IS NULL";

pub(super) const RENEW_NAME: &str =
    "UPDATE organizations SET name_key = $1 WHERE id = $2 AND name_key IS NULL";

pub(super) const RENEW_USER: &str =
    "UPDATE users SET email = $1, email_rules = 2 WHERE id = $2 AND email = $3";

pub(super) const RENEW_INVITATION: &str =
    "UPDATE invitations SET email = $1, email_rules = 2 WHERE token_hash = $2 AND email = $3";
