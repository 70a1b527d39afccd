#!/bin/bash
# Exit 0: a client can log in over TCP with a password and read. While the roles are being set, no TCP port is open.
set -u
PGPASSWORD=$(</run/secrets/postgres-results) PGCONNECT_TIMEOUT=4 \
  timeout 5 psql --no-psqlrc --quiet --tuples-only --host 127.0.0.1 --username waggle_results --dbname waggle --command 'SELECT 1' >/dev/null
