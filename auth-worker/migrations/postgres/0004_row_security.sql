-- A backstop for a statement that forgets its organisation: whoever changes rows says for which organisation, and
-- the server lets them change no others. Reads are not restricted: a login has an address and nothing else. It
-- binds the owner of the tables too, but no superuser.

CREATE FUNCTION acting_organization() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('eventboard.organization_id', true), '')::uuid;

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY users_read ON users FOR SELECT USING (true);
CREATE POLICY users_add ON users FOR INSERT WITH CHECK (organization_id = acting_organization());
CREATE POLICY users_change ON users FOR UPDATE USING (organization_id = acting_organization());

ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE POLICY invitations_read ON invitations FOR SELECT USING (true);
CREATE POLICY invitations_add ON invitations FOR INSERT WITH CHECK (organization_id = acting_organization());
CREATE POLICY invitations_use ON invitations FOR UPDATE USING (organization_id = acting_organization());
