#!/bin/bash
# Starts the PostgreSQL that holds the count.
#
# In:  /data, the secrets postgres-admin, postgres-drain and postgres-results, POSTGRES_SHARED_BUFFERS. With ARCHIVE=on
#      also /archive and the secret archive-key: archive.sh.
# Out: a server on TCP 5432 for the three roles, and on a socket in /tmp for maintenance inside the container.
#
# It guarantees: one server per data directory; a half-made cluster is never used; the passwords are those of the secrets
# before the first client can connect.
set -euo pipefail
umask 077

readonly data=/data/postgres
readonly config=/etc/waggle/postgresql.conf
readonly log=/tmp/waggle-postgres.log

say() { printf 'waggle-postgres: %s\n' "$*" >&2; }
refuse() {
  say "refused to start: $*"
  exit 1
}

check_settings() {
  [[ $# -eq 0 ]] || refuse "arguments \"$*\" are not accepted: the durability settings are fixed; only POSTGRES_SHARED_BUFFERS and ARCHIVE may be changed"
  [[ ${POSTGRES_SHARED_BUFFERS:-} =~ ^[1-9][0-9]{1,5}MB$ ]] ||
    refuse "POSTGRES_SHARED_BUFFERS=\"${POSTGRES_SHARED_BUFFERS:-}\" must be 10MB to 999999MB, as in 256MB"
  [[ ${ARCHIVE:-} =~ ^(on)?$ ]] || refuse "ARCHIVE=\"$ARCHIVE\" must be on or empty"
  local name
  for name in postgres-admin postgres-drain postgres-results ${ARCHIVE:+archive-key}; do
    [[ -s /run/secrets/$name ]] || refuse "secret $name is missing or empty: mount it as /run/secrets/$name"
  done
  [[ -w /data ]] || refuse "/data is not writable by uid $(id -u) gid $(id -g): mount a volume that was created empty"
}

# PostgreSQL's own lock file holds a process number, which means nothing in another container. The descriptor is
# inherited by every server process, so this lock lasts as long as any of them.
take_lock() {
  exec 9>/data/.lock
  flock --nonblock 9 || refuse "another server holds /data/.lock: two servers on one volume would destroy the count"
}

# An interrupted first start leaves only $data.new, which is thrown away: the rename is what makes the cluster exist.
create_cluster() {
  local unexpected new=$data.new
  unexpected=$(find /data -mindepth 1 -maxdepth 1 ! -name .lock ! -name postgres.new ! -name lost+found -printf '%f ' -quit)
  [[ -z $unexpected ]] || refuse "/data holds ${unexpected% } but no postgres directory: mount an empty volume or the one the count was in"
  rm -rf "$new"
  initdb --pgdata "$new" --data-checksums --encoding UTF8 --locale C.UTF-8 --auth-local peer --auth-host scram-sha-256 \
    >"$log" 2>&1 || refuse "initdb failed: $(tail -n 3 "$log")"
  mv --no-target-directory "$new" "$data"
  sync /data
  say "created an empty cluster with data checksums"
}

check_cluster() {
  local version
  [[ -s $data/PG_VERSION ]] || refuse "$data has no PG_VERSION: restore the volume or mount an empty one"
  version=$(<"$data/PG_VERSION")
  [[ $version == 15 ]] || refuse "$data was made by PostgreSQL $version, this image runs 15: dump it with $version and load it here"
  # With the lock held no server runs, so the file is what a kill left behind.
  rm -f "$data/postmaster.pid"
}

# The server of this step listens on a socket only this user can reach: no client sees a role with an old password. Its log
# is kept for the archive; the server of later hands it over.
apply_roles() {
  local private=/tmp/waggle-roles
  rm -rf "$private"
  mkdir "$private"
  pg_ctl start --pgdata "$data" --silent --wait --timeout 3600 --log "$log" \
    --options "-c config_file=$config -c archive_mode=${ARCHIVE:-off} -c listen_addresses='' -c unix_socket_directories=$private" ||
    refuse "the server did not start: $(tail -n 5 "$log")"
  psql --no-psqlrc --quiet --host "$private" --username postgres --dbname postgres --file /usr/share/waggle/roles.sql >/dev/null ||
    refuse "the roles could not be set, see the line above"
  pg_ctl stop --pgdata "$data" --silent --wait --mode fast ||
    refuse "the server that sets the roles did not stop: $(tail -n 5 "$log")"
  rm -rf "$private"
}

main() {
  # Process 1 ignores a signal without a handler; a kill in the middle of these steps is safe.
  trap 'exit 130' INT TERM
  check_settings "$@"
  take_lock
  [[ -d $data ]] || create_cluster
  check_cluster
  apply_roles
  local archiving=()
  # A minute at most is lost with this machine; a log that is hardly used takes little once it is compressed.
  [[ -z ${ARCHIVE:-} ]] || archiving=(-c archive_mode=on -c archive_timeout=60 -c "archive_command=archive.sh pgbackrest archive-push %p")
  exec postgres -D "$data" -c "config_file=$config" -c "shared_buffers=$POSTGRES_SHARED_BUFFERS" "${archiving[@]}"
}

main "$@"
