#!/bin/bash
# The archive of PostgreSQL's log and its base backups: pgBackRest, encrypted with the secret archive-key.
#
# In:  /archive, which should be another machine's disk; the server in /data/postgres; the secret archive-key.
# Out: archive.sh prepare             makes the archive, or lets it take a new cluster's log beside the old one's
#      archive.sh flush               brings what is committed by now into the archive
#      archive.sh pgbackrest ...      any command of pgBackRest, with these settings
#      archive.sh recover BASE TIME   in a container of its own, with an empty /data and without the others: becomes a
#                                     server with everything that was committed up to that moment; its input is the key
#
# It guarantees: no command changes the count; an interrupted one may be repeated.
set -euo pipefail
umask 077

: "${PGBACKREST_PG1_PATH:=/data/postgres}" "${PGBACKREST_REPO1_PATH:=/archive}" "${PGHOST:=/tmp}" "${PGPORT:=5432}"
if [[ -z ${PGBACKREST_REPO1_CIPHER_PASS:-} ]]; then
  # A container outside of the Swarm has no secrets: it is told.
  [[ ! -e /run/secrets/archive-key ]] || exec </run/secrets/archive-key
  read -r PGBACKREST_REPO1_CIPHER_PASS || [[ -n $PGBACKREST_REPO1_CIPHER_PASS ]]
  exec </dev/null
fi
export PGHOST PGPORT PGUSER=postgres PGDATABASE=postgres
export PGBACKREST_PG1_PATH PGBACKREST_PG1_SOCKET_PATH=$PGHOST PGBACKREST_PG1_PORT=$PGPORT PGBACKREST_PG1_USER=$PGUSER
export PGBACKREST_REPO1_PATH PGBACKREST_REPO1_CIPHER_PASS PGBACKREST_REPO1_CIPHER_TYPE=aes-256-cbc PGBACKREST_REPO1_RETENTION_FULL=2
export PGBACKREST_STANZA=waggle PGBACKREST_COMPRESS_TYPE=zst PGBACKREST_START_FAST=y PGBACKREST_LOCK_PATH=$PGHOST/pgbackrest
# Only what went wrong, where docker's command finds it.
export PGBACKREST_LOG_LEVEL_FILE=off PGBACKREST_LOG_LEVEL_CONSOLE=off PGBACKREST_LOG_LEVEL_STDERR=warn PGBACKREST_LOG_TIMESTAMP=n

# What is there may be of a cluster that was lost: it stays, and the new one's comes beside it. pgBackRest ends with 28 then.
prepare() {
  local code=0 said
  said=$(pgbackrest --no-config stanza-create 2>&1) || code=$?
  if ((code == 28)); then
    code=0
    said=$(pgbackrest --no-config stanza-upgrade 2>&1) || code=$?
  fi
  ((code == 0)) || { echo "$said" >&2; exit "$code"; }
  exec pgbackrest --no-config check
}

# A recovery knows that it has reached a moment by the first transaction after it.
flush() {
  psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --command='SELECT txid_current()' >/dev/null
  exec pgbackrest --no-config check --archive-timeout=20
}

# What is lost with this server is made again, so it need not wait for its disk.
recover() {
  exec 2>&1
  mkdir -p "$PGBACKREST_PG1_PATH"
  pgbackrest --no-config restore --set="$1" --type=time --target="$2" --target-action=promote --archive-mode=off
  exec postgres -D "$PGBACKREST_PG1_PATH" -c listen_addresses= -c "unix_socket_directories=$PGHOST" -c "port=$PGPORT" \
    -c hot_standby=off -c fsync=off -c autovacuum=off -c timezone=UTC -c log_timezone=UTC -c log_min_error_statement=panic
}

command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
  prepare | flush | recover) "$command" "$@" ;;
  pgbackrest) exec pgbackrest --no-config "$@" ;;
  *)
    echo "archive.sh \"$command\": must be prepare, flush, recover or pgbackrest" >&2
    exit 2
    ;;
esac
