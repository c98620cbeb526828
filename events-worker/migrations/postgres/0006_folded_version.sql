-- The version of the event whose text search_text was last folded by today's rules. A worker of an earlier version
-- counts the event's version on and leaves this behind: then the text is folded anew. search_version, which could not
-- tell that, stays for workers that still write it.
DROP INDEX events_to_fold;
ALTER TABLE events ADD COLUMN folded_version bigint;

CREATE INDEX events_to_fold ON events (organization_id, id)
    WHERE folded_version IS DISTINCT FROM version AND octet_length(search_text) <> char_length(search_text);
