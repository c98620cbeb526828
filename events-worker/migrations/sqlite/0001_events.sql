-- Times are Unix milliseconds, ids are 16 bytes.

CREATE TABLE events (
    row              INTEGER NOT NULL PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE,
    organization_id  BLOB    NOT NULL,
    created_by_id    BLOB    NOT NULL,
    title            TEXT    NOT NULL,
    description      TEXT    NOT NULL,
    location         TEXT,
    start_date       INTEGER NOT NULL,
    end_date         INTEGER NOT NULL CHECK (end_date > start_date),
    status           TEXT    NOT NULL CHECK (status IN ('DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED')),
    rejection_reason TEXT,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    version          INTEGER NOT NULL CHECK (version > 0),
    -- Title and description in lower case: SQLite folds ASCII only.
    search_text      TEXT    NOT NULL
) STRICT;

-- A list is a merge of walks, each along one of these: by status for those who see everything and for
-- approved events, by creator for one's own. Every sort column has its walk, ties broken by id.
CREATE INDEX events_by_status_start   ON events (organization_id, status, start_date, id);
CREATE INDEX events_by_status_created ON events (organization_id, status, created_at, id);
CREATE INDEX events_by_status_title   ON events (organization_id, status, title, id);
CREATE INDEX events_by_status         ON events (organization_id, status, id);
CREATE INDEX events_by_creator_start   ON events (organization_id, created_by_id, start_date, id);
CREATE INDEX events_by_creator_created ON events (organization_id, created_by_id, created_at, id);
CREATE INDEX events_by_creator_title   ON events (organization_id, created_by_id, title, id);
CREATE INDEX events_by_creator_status  ON events (organization_id, created_by_id, status, id);

-- Finds any part of a text of three characters or more without reading every row.
CREATE VIRTUAL TABLE events_search USING fts5 (
    search_text, content = 'events', content_rowid = 'row', tokenize = 'trigram case_sensitive 1'
);

CREATE TRIGGER events_search_insert AFTER INSERT ON events BEGIN
    INSERT INTO events_search (rowid, search_text) VALUES (new.row, new.search_text);
END;

CREATE TRIGGER events_search_delete AFTER DELETE ON events BEGIN
    INSERT INTO events_search (events_search, rowid, search_text) VALUES ('delete', old.row, old.search_text);
END;

CREATE TRIGGER events_search_update AFTER UPDATE OF search_text ON events
    WHEN old.search_text <> new.search_text
BEGIN
    INSERT INTO events_search (events_search, rowid, search_text) VALUES ('delete', old.row, old.search_text);
    INSERT INTO events_search (rowid, search_text) VALUES (new.row, new.search_text);
END;

-- Outlives the event: what was deleted was deleted by somebody.
CREATE TABLE event_history (
    row             INTEGER NOT NULL PRIMARY KEY,
    event_id        BLOB    NOT NULL,
    organization_id BLOB    NOT NULL,
    at              INTEGER NOT NULL,
    actor_id        BLOB    NOT NULL,
    action          TEXT    NOT NULL CHECK (action IN
        ('created', 'updated', 'submitted', 'withdrawn', 'approved', 'rejected', 'deleted')),
    from_status     TEXT,
    to_status       TEXT,
    reason          TEXT,
    correlation_id  TEXT    NOT NULL
) STRICT;

CREATE INDEX event_history_by_event ON event_history (organization_id, event_id, row);
