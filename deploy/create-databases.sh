#!/usr/bin/env bash
# Runs once, on an empty Postgres: a role and a database for each worker, closed to all others.
set -euo pipefail

secrets=${EVENTBOARD_SECRETS:-/run/secrets}

for name in auth events; do
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
        --set=name="$name" --set=password="$(cat "$secrets/$name-database-password")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password' NOSUPERUSER NOCREATEDB NOCREATEROLE;
CREATE DATABASE :"name" OWNER :"name" TEMPLATE template0;
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
