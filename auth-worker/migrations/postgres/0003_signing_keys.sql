-- Key pairs are sealed by a key that is derived from the configured one, which has a row only once it is revoked.
CREATE TABLE signing_keys (
    kid          text        NOT NULL PRIMARY KEY,
    sealed       bytea,
    created_at   timestamptz NOT NULL,
    current_from timestamptz NOT NULL,
    revoked_at   timestamptz
);
