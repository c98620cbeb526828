-- The span that first answered a write: a repetition's span links to it.
ALTER TABLE outcomes ADD COLUMN span_id text NOT NULL DEFAULT '';

-- Whoever has a correlation id finds what was done under it.
CREATE INDEX event_history_by_correlation ON event_history (correlation_id, row);
