# What the two servers of this image have in common; sourced by entrypoint.sh, which holds a node's votes, and by queue.sh,
# which holds a gateway's asynchronous calls. Whoever sources it sets "sockets", the directory of the socket, and "secrets",
# the names of its secrets.
#
# It guarantees one server per data directory, settings that nobody can weaken, and a socket that others see only once
# the server's data has been found sound.
set -euo pipefail
umask 077

readonly data=/data/redis
readonly published=$sockets/redis.sock
# Others cannot enter this directory: the server listens here until its data has been checked.
readonly starting=$sockets/.starting
readonly config=/tmp/waggle-redis

say() { printf 'waggle-redis: %s\n' "$*" >&2; }
refuse() {
  say "refused to start: $*"
  exit 1
}

check_settings() {
  [[ $# -eq 0 ]] || refuse "arguments \"$*\" are not accepted: the durability settings are fixed; only REDIS_MAXMEMORY may be changed"
  [[ ${REDIS_MAXMEMORY:-512mb} =~ ^([0-9]{1,6})mb$ ]] ||
    refuse "REDIS_MAXMEMORY=\"$REDIS_MAXMEMORY\" must be 16mb to 999999mb, as in 512mb"
  megabytes=$((10#${BASH_REMATCH[1]}))
  ((megabytes >= 16)) || refuse "REDIS_MAXMEMORY=\"$REDIS_MAXMEMORY\" must be 16mb to 999999mb, as in 512mb"
  local name
  for name in $secrets; do
    [[ -s /run/secrets/$name ]] || refuse "secret $name is missing or empty: mount it as /run/secrets/$name"
  done
  for name in /data "$sockets"; do
    [[ -w $name ]] || refuse "$name is not writable by uid $(id -u) gid $(id -g): mount a volume that was created empty"
  done
}

# Two servers on one append-only file destroy what they have acknowledged. The descriptor is inherited by the server and its
# rewrite children, so the lock lasts as long as any of them.
take_lock() {
  exec 9>/data/.lock
  flock --nonblock 9 || refuse "another server holds /data/.lock: two servers on one volume would lose what was acknowledged"
}

# A rewrite needs old base + grown increment + new base at once.
check_room() {
  local free wanted=$((3 * megabytes + 128))
  free=$(df --output=avail --block-size=1M /data | tail -n 1)
  ((free >= wanted)) || say "warning: /data has ${free// /} MB free, $wanted MB are needed to fill REDIS_MAXMEMORY=${megabytes}mb"
}

# A secret may have several lines: each is a password that is taken, as long as one is being exchanged for another. The first
# is the one to log in with.
digests() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    [[ -z $line ]] || printf '#%s ' "$(printf '%s' "$line" | sha256sum | cut -d ' ' -f 1)"
  done <"/run/secrets/$1"
}
password() { head -n 1 "/run/secrets/$1"; }

# Takes the users from standard input and where to listen besides the socket from its arguments. Passwords reach the server
# as digests in a file on tmpfs: never in an argument, the environment or the log.
write_config() {
  rm -rf "$config"
  mkdir "$config"
  cat >"$config/users.acl"
  { printf '%s\n' "$@" && durable; } >"$config/redis.conf"
  cat >>"$config/redis.conf" <<CONF
dir $data
daemonize no
logfile ""
protected-mode yes
unixsocket $starting/redis.sock
unixsocketperm 770
tcp-keepalive 60
aclfile $config/users.acl
maxmemory ${megabytes}mb
maxmemory-policy noeviction
oom-score-adj yes
CONF
}

# "always" answers a client only after fsync; any other word here loses what was acknowledged when the process dies.
# A torn tail is what power loss leaves behind, and was never acknowledged: hence aof-load-truncated.
durable() {
  printf '%s\n' 'appendonly yes' 'appendfsync always' 'no-appendfsync-on-rewrite no' 'aof-load-truncated yes' 'save ""'
}

# Waits for an answer to a command, given as a function that runs it, other than that the server is not there yet.
await_answer() {
  until answer=$("$@") && [[ $answer != LOADING* && $answer != *"Could not connect"* ]]; do
    kill -0 "$server" 2>/dev/null || { [[ -z $stopping ]] || exit 0; refuse "the server stopped while loading its data"; }
    sleep 0.1
  done
}

# Runs the server to its end. Its socket is published once the function named by the first argument has found its data sound.
serve() {
  stopping=
  rm -rf "$published" "$starting"
  mkdir "$starting"
  redis-server "$config/redis.conf" &
  server=$!
  # The server answers what it has, closes its file and goes; nothing may outlive it and name a dead socket.
  trap 'stopping=yes; kill -TERM "$server" 2>/dev/null' TERM INT
  trap 'status=$?; rm -f "$published"; kill -TERM "$server" 2>/dev/null && wait "$server" || true; exit "$status"' EXIT
  "$1"
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
