-- By which rules search_text was folded; workers make those anew in which older rules could matter.
ALTER TABLE events ADD COLUMN search_version smallint NOT NULL DEFAULT 1;

CREATE INDEX events_to_fold ON events (organization_id, id)
    WHERE search_version < 2 AND octet_length(search_text) <> char_length(search_text);
