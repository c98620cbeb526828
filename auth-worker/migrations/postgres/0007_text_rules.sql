-- In the order in which accounts are created, so that nobody waits in a circle.
LOCK TABLE invitations, organizations, users IN ACCESS EXCLUSIVE MODE;

-- By which rules an address was normalised. Workers look at those of earlier rules, and at what workers of an earlier
-- version add meanwhile.
ALTER TABLE users ADD COLUMN email_rules smallint NOT NULL DEFAULT 1;
ALTER TABLE invitations ADD COLUMN email_rules smallint NOT NULL DEFAULT 1;

DROP INDEX users_by_other_scripts;
DROP INDEX invitations_by_other_scripts;
CREATE INDEX users_to_normalize ON users (id)
    WHERE email_rules < 2 AND octet_length(email) <> char_length(email);
CREATE INDEX invitations_to_normalize ON invitations (token_hash)
    WHERE email_rules < 2 AND octet_length(email) <> char_length(email);

-- Keys of names in which letters were taken for punctuation are made anew.
UPDATE organizations SET name_key = NULL WHERE name_key = '' OR octet_length(name) <> char_length(name);
