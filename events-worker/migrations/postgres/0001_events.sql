-- Texts are compared by code point, as in SQLite: both databases sort and search alike, and cursors hold.

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gin;

CREATE TABLE events (
    id               uuid        NOT NULL PRIMARY KEY,
    organization_id  uuid        NOT NULL,
    created_by_id    uuid        NOT NULL,
    title            text        COLLATE "C" NOT NULL,
    description      text        NOT NULL,
    location         text,
    start_date       timestamptz NOT NULL,
    end_date         timestamptz NOT NULL CHECK (end_date > start_date),
    status           text        COLLATE "C" NOT NULL
        CHECK (status IN ('DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED')),
    rejection_reason text,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    version          bigint      NOT NULL CHECK (version > 0),
    -- Title and description in lower case, folded by the worker: servers differ in what they fold.
    search_text      text        COLLATE "C" NOT NULL
);

-- A list is a merge of walks, each along one of these: by status for those who see everything and for
-- approved events, by creator for one's own. Every sort column has its walk, ties broken by id.
CREATE INDEX events_by_status_start    ON events (organization_id, status, start_date, id);
CREATE INDEX events_by_status_created  ON events (organization_id, status, created_at, id);
CREATE INDEX events_by_status_title    ON events (organization_id, status, title, id);
CREATE INDEX events_by_status          ON events (organization_id, status, id);
CREATE INDEX events_by_creator_start   ON events (organization_id, created_by_id, start_date, id);
CREATE INDEX events_by_creator_created ON events (organization_id, created_by_id, created_at, id);
CREATE INDEX events_by_creator_title   ON events (organization_id, created_by_id, title, id);
CREATE INDEX events_by_creator_status  ON events (organization_id, created_by_id, status, id);

-- Finds any part of a text of three characters or more without reading every row.
CREATE INDEX events_search ON events USING gin (organization_id, search_text gin_trgm_ops);

-- Outlives the event: what was deleted was deleted by somebody.
CREATE TABLE event_history (
    row             bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id        uuid        NOT NULL,
    organization_id uuid        NOT NULL,
    at              timestamptz NOT NULL,
    actor_id        uuid        NOT NULL,
    action          text        NOT NULL CHECK (action IN
        ('created', 'updated', 'submitted', 'withdrawn', 'approved', 'rejected', 'deleted')),
    from_status     text,
    to_status       text,
    reason          text,
    correlation_id  text        NOT NULL
);

CREATE INDEX event_history_by_event ON event_history (organization_id, event_id, row);
