-- Key pairs are sealed by a key that is derived from the configured one, which has a row only once it is revoked.
CREATE TABLE signing_keys (
    kid          TEXT    NOT NULL PRIMARY KEY,
    sealed       BLOB,
    created_at   INTEGER NOT NULL,
    current_from INTEGER NOT NULL,
    revoked_at   INTEGER
) STRICT, WITHOUT ROWID;
