-- A backstop for a statement that forgets its organisation: whoever changes rows says for which organisation, and
-- the server lets them change no others. Reads are not restricted: every one names its organisation, and each would
-- cost another round trip. It binds the owner of the tables too, but no superuser.

CREATE FUNCTION acting_organization() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('eventboard.organization_id', true), '')::uuid;

ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE events FORCE ROW LEVEL SECURITY;
CREATE POLICY events_read ON events FOR SELECT USING (true);
CREATE POLICY events_add ON events FOR INSERT WITH CHECK (organization_id = acting_organization());
CREATE POLICY events_change ON events FOR UPDATE USING (organization_id = acting_organization());
CREATE POLICY events_remove ON events FOR DELETE USING (organization_id = acting_organization());

-- What has happened is not changed: there is no policy for that.
ALTER TABLE event_history ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_history FORCE ROW LEVEL SECURITY;
CREATE POLICY event_history_read ON event_history FOR SELECT USING (true);
CREATE POLICY event_history_add ON event_history FOR INSERT
    WITH CHECK (organization_id = acting_organization());

-- What nobody may ask for any more is locked and removed for whichever organisation.
ALTER TABLE outcomes ENABLE ROW LEVEL SECURITY;
ALTER TABLE outcomes FORCE ROW LEVEL SECURITY;
CREATE POLICY outcomes_read ON outcomes FOR SELECT USING (true);
CREATE POLICY outcomes_add ON outcomes FOR INSERT WITH CHECK (organization_id = acting_organization());
CREATE POLICY outcomes_lock_old ON outcomes FOR UPDATE
    USING (kept_at < now() - interval '24 hours') WITH CHECK (false);
CREATE POLICY outcomes_remove_old ON outcomes FOR DELETE USING (kept_at < now() - interval '24 hours');
