-- What is the same for two names that look the same; workers fill it in for organisations that have none.
ALTER TABLE organizations ADD COLUMN name_key TEXT;

CREATE UNIQUE INDEX organizations_by_name_key ON organizations (name_key);

-- Addresses of which a normal form other than lower case can matter.
CREATE INDEX users_by_other_scripts ON users (id) WHERE length(CAST(email AS BLOB)) <> length(email);
CREATE INDEX invitations_by_other_scripts ON invitations (token_hash) WHERE length(CAST(email AS BLOB)) <> length(email);
