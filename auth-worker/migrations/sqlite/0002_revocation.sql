-- Access tokens carry the version of their user's tokens; what is lower than the newest is revoked.
ALTER TABLE users ADD COLUMN disabled_at INTEGER;
ALTER TABLE users ADD COLUMN token_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN tokens_revoked_at INTEGER;

CREATE INDEX users_by_revocation ON users (tokens_revoked_at) WHERE tokens_revoked_at IS NOT NULL;
CREATE INDEX members_by_organization ON users (organization_id, id);
DROP INDEX users_by_organization;

-- A session that is over is kept until its last access token is over by itself. ended_at says that it was ended
-- before its time, and expires_at is the same then.
ALTER TABLE sessions ADD COLUMN ended_at INTEGER;

CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE ended_at IS NOT NULL;
