-- The contract says which actions there are: a list here would refuse what a newer worker records.
ALTER TABLE event_history DROP CONSTRAINT event_history_action_check;
