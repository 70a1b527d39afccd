#!/bin/bash
# Starts the Redis that holds a node's votes.
#
# In:  /data and /run/votes, the secrets redis-capture and redis-drain, NODE (the node's name), REDIS_MAXMEMORY.
# Out: a server on TCP 6379 and, once its data has been proved to be ours, on /run/votes/redis.sock.
#
# It guarantees, in this order: one server per data directory; a stream that exists durably with its genesis before any
# function can reach it; never a new stream where one has been.
set -euo pipefail
umask 077

readonly data=/data/redis
readonly sockets=/run/votes
readonly published=$sockets/redis.sock
# Functions cannot enter this directory: the server listens here until its data has been checked.
readonly starting=$sockets/.starting
readonly config=/tmp/waggle-redis

say() { printf 'waggle-redis: %s\n' "$*" >&2; }
refuse() {
  say "refused to start: $*"
  exit 1
}

check_settings() {
  [[ $# -eq 0 ]] || refuse "arguments \"$*\" are not accepted: the durability settings are fixed; only REDIS_MAXMEMORY may be changed"
  [[ ${NODE:-} =~ ^[A-Za-z0-9._-]{1,253}$ ]] ||
    refuse "NODE=\"${NODE:-}\" must name the node: 1 to 253 letters, digits, '.', '_' or '-'"
  [[ ${REDIS_MAXMEMORY:-512mb} =~ ^([0-9]{1,6})mb$ ]] ||
    refuse "REDIS_MAXMEMORY=\"$REDIS_MAXMEMORY\" must be 16mb to 999999mb, as in 512mb"
  megabytes=$((10#${BASH_REMATCH[1]}))
  ((megabytes >= 16)) || refuse "REDIS_MAXMEMORY=\"$REDIS_MAXMEMORY\" must be 16mb to 999999mb, as in 512mb"
  local name
  for name in redis-capture redis-drain; do
    [[ -s /run/secrets/$name ]] || refuse "secret $name is missing or empty: mount it as /run/secrets/$name"
  done
  [[ -w /data ]] || refuse "/data is not writable by uid $(id -u) gid $(id -g): mount a volume that was created empty"
  [[ -w $sockets ]] || refuse "$sockets is not writable by uid $(id -u) gid $(id -g): mount a volume that was created empty"
}

# Two servers on one append-only file destroy acknowledged votes. The descriptor is inherited by the server and its
# rewrite children, so the lock lasts as long as any of them.
take_lock() {
  exec 9>/data/.lock
  flock --nonblock 9 || refuse "another server holds /data/.lock: two servers on one volume would lose votes"
}

# A rewrite needs old base + grown increment + new base at once.
check_room() {
  local free wanted=$((3 * megabytes + 128))
  free=$(df --output=avail --block-size=1M /data | tail -n 1)
  ((free >= wanted)) || say "warning: /data has ${free// /} MB free, $wanted MB are needed to fill REDIS_MAXMEMORY=${megabytes}mb"
}

digest() { printf '%s' "$(<"/run/secrets/$1")" | sha256sum | cut -d ' ' -f 1; }

# Passwords reach the server as digests in a file on tmpfs: never in an argument, the environment or the log.
write_config() {
  rm -rf "$config"
  mkdir "$config"
  cat >"$config/users.acl" <<ACL
user default reset off
user capture reset on #$(digest redis-capture) ~votes -@all +xadd +ping +hello +auth
user drain reset on #$(digest redis-drain) ~votes ~votes:inc -@all +xrange +xtrim +xlen +xinfo|stream +get +ping +hello +auth
ACL
  cat >"$config/redis.conf" <<CONF
dir $data
daemonize no
logfile ""
bind 0.0.0.0
port 6379
protected-mode yes
unixsocket $starting/redis.sock
unixsocketperm 770
tcp-keepalive 60
aclfile $config/users.acl
$(durable)
maxmemory ${megabytes}mb
maxmemory-policy noeviction
oom-score-adj yes
CONF
}

# "always" answers a client only after fsync; any other word here loses acknowledged votes when the process dies.
# A torn tail is what power loss leaves behind, and was never acknowledged: hence aof-load-truncated.
durable() {
  printf '%s\n' 'appendonly yes' 'appendfsync always' 'no-appendfsync-on-rewrite no' 'aof-load-truncated yes' 'save ""'
}

# An interrupted first start leaves only $data.new, which is thrown away: the rename is what makes the stream exist.
create_stream() {
  local unexpected inc new=$data.new
  unexpected=$(find /data -mindepth 1 -maxdepth 1 ! -name .lock ! -name redis.new ! -name lost+found -printf '%f ' -quit)
  [[ -z $unexpected ]] || refuse "/data holds ${unexpected% } but no votes directory: mount an empty volume or the one this node had"
  rm -rf "$new"
  mkdir "$new"
  inc=$(</proc/sys/kernel/random/uuid)
  { durable && printf '%s\n' "dir $new" 'logfile ""' 'port 0' "unixsocket $new/genesis.sock"; } >"$config/genesis.conf"
  redis-server "$config/genesis.conf" >"$config/genesis.log" &
  local server=$!
  until redis-cli -s "$new/genesis.sock" ping >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || refuse "the server that writes the genesis entry stopped: $(tail -n 3 "$config/genesis.log")"
    sleep 0.05
  done
  # Never MULTI: Redis 7.0 loads its file as the default user, which is off, and so drops each transaction on restart.
  redis-cli -s "$new/genesis.sock" -e xadd votes 0-1 kind genesis inc "$inc" node "$NODE" >/dev/null ||
    refuse "the genesis entry could not be written"
  redis-cli -s "$new/genesis.sock" -e set votes:inc "$inc" >/dev/null || refuse "key votes:inc could not be written"
  kill -TERM "$server"
  wait "$server" || refuse "the server that writes the genesis entry did not stop cleanly"
  rm -f "$new/genesis.sock"
  printf '%s\n' "$inc" >"$new/incarnation"
  find "$new" -exec sync {} +
  mv --no-target-directory "$new" "$data"
  sync /data
  say "created stream votes, incarnation $inc, node $NODE"
}

as_drain() {
  REDISCLI_AUTH=$(</run/secrets/redis-drain) redis-cli -s "$starting/redis.sock" --user drain --no-auth-warning "$@" 2>/dev/null
}

# Waits for the server to have loaded its file, then compares it with the incarnation noted beside it.
prove_data() {
  local want answer
  want=$(<"$data/incarnation")
  until answer=$(as_drain get votes:inc) && [[ $answer != LOADING* && $answer != *"Could not connect"* ]]; do
    kill -0 "$server" 2>/dev/null || { [[ -z $stopping ]] || exit 0; refuse "the server stopped while loading its data"; }
    sleep 0.1
  done
  [[ $answer == "$want" ]] ||
    refuse "key votes:inc is \"$answer\" but this volume belongs to incarnation $want: restore the append-only file, or remove the volume to start a new incarnation (its votes are then reported as lost)"
  answer=$(as_drain xinfo stream votes)
  [[ $answer == length* ]] || refuse "stream votes is missing from incarnation $want: $answer"
}

main() {
  check_settings "$@"
  take_lock
  check_room
  write_config
  if [[ -d $data ]]; then
    [[ -s $data/incarnation ]] || refuse "$data has no incarnation note: restore the volume, or remove it to start a new incarnation"
    [[ -d $data/appendonlydir ]] || refuse "$data has no append-only file: restore the volume, or remove it to start a new incarnation"
  else
    create_stream
  fi

  stopping=
  rm -rf "$published" "$starting"
  mkdir "$starting"
  redis-server "$config/redis.conf" &
  server=$!
  # The server answers what it has, closes its file and goes; nothing may outlive it and name a dead socket.
  trap 'stopping=yes; kill -TERM "$server" 2>/dev/null' TERM INT
  trap 'status=$?; rm -f "$published"; kill -TERM "$server" 2>/dev/null && wait "$server" || true; exit "$status"' EXIT
  prove_data
  mv --no-target-directory "$starting/redis.sock" "$published"
  say "ready on $published, maxmemory ${megabytes}mb"

  local status
  # A trapped signal ends wait early; only the server's own end ends this loop.
  while :; do
    status=0
    wait "$server" || status=$?
    kill -0 "$server" 2>/dev/null || break
  done
  exit "$status"
}

main "$@"
