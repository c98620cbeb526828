-- Hashes are SHA-256. E-mail addresses and slugs are stored in their one normal form.

CREATE TABLE organizations (
    id         uuid        NOT NULL PRIMARY KEY,
    name       text        NOT NULL,
    slug       text        NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);

CREATE TABLE users (
    id              uuid        NOT NULL PRIMARY KEY,
    organization_id uuid        NOT NULL REFERENCES organizations (id),
    email           text        NOT NULL UNIQUE,
    password_hash   text        NOT NULL,
    first_name      text        NOT NULL,
    last_name       text        NOT NULL,
    role            text        NOT NULL CHECK (role IN ('USER', 'MODERATOR', 'ADMIN')),
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE INDEX users_by_organization ON users (organization_id);

-- One row per session. The refresh token is derived from (id, counter) and is stored nowhere.
CREATE TABLE sessions (
    id         uuid        NOT NULL PRIMARY KEY,
    user_id    uuid        NOT NULL REFERENCES users (id),
    counter    bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE TABLE invitations (
    token_hash      bytea       NOT NULL PRIMARY KEY,
    organization_id uuid        NOT NULL REFERENCES organizations (id),
    email           text        NOT NULL,
    role            text        NOT NULL CHECK (role IN ('USER', 'MODERATOR', 'ADMIN')),
    created_by_id   uuid        NOT NULL REFERENCES users (id),
    expires_at      timestamptz NOT NULL,
    used_at         timestamptz
);

CREATE INDEX invitations_by_expiry ON invitations (expires_at);
