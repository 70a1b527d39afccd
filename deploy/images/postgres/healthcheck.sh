#!/bin/bash
# Exit 0: a client can log in over TCP with a password and read. While the roles are being set, no TCP port is open.
# With --watch, every check but the first that passes in a container's life goes on for a minute: each costs the engine
# a process, some 50 ms of CPU, and yet the interval between two has to be short, since a start waits for one.
set -u

answers() {
  PGPASSWORD=$(</run/secrets/postgres-results) PGCONNECT_TIMEOUT=4 \
    timeout 5 psql --no-psqlrc --quiet --tuples-only --host 127.0.0.1 --username waggle_results --dbname waggle --command 'SELECT 1' >/dev/null
}

answers || exit 1
[[ ${1-} == --watch ]] || exit 0
if [[ ! -e /dev/shm/checked ]]; then
  touch /dev/shm/checked
  exit 0
fi
while ((SECONDS < 50)); do
  sleep 10
  answers || exit 1
done
