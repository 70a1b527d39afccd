#!/bin/bash
# Starts the Redis that holds a node's votes.
#
# In:  /data and /run/votes, the secrets redis-capture, redis-copies and redis-drain, NODE (the node's name), REDIS_MAXMEMORY.
# Out: a server on TCP 6379 and, once its data has been proved to be ours, on /run/votes/redis.sock.
#
# It guarantees what server.sh does, and: a stream that exists durably with its genesis before any function can reach it;
# never a new stream where one has been.
readonly sockets=/run/votes
readonly secrets="redis-capture redis-copies redis-drain"
. /usr/local/bin/server.sh

check_node() {
  [[ ${NODE:-} =~ ^[A-Za-z0-9._-]{1,253}$ ]] ||
    refuse "NODE=\"${NODE:-}\" must name the node: 1 to 253 letters, digits, '.', '_' or '-'"
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

# Power loss leaves a log that ends in the middle of a command, and so does a disk that forgot what it had confirmed. The server
# drops such an end without a word to anybody. A worker reads the note and reports that votes may be gone.
note_cut() {
  REDISCLI_AUTH=$(password redis-capture) redis-cli -s "$starting/redis.sock" --user capture --no-auth-warning -e \
    xadd votes:torn '*' node "$NODE" >/dev/null || refuse "the note that the log was cut could not be written"
  say "the log was cut; what it lost is not known"
}

as_drain() {
  REDISCLI_AUTH=$(password redis-drain) redis-cli -s "$starting/redis.sock" --user drain --no-auth-warning "$@" 2>/dev/null
}

# Waits for the server to have loaded its file, then compares it with the incarnation noted beside it.
prove_data() {
  local want
  want=$(<"$data/incarnation")
  await_answer as_drain get votes:inc
  [[ $answer == "$want" ]] ||
    refuse "key votes:inc is \"$answer\" but this volume belongs to incarnation $want: restore the append-only file, or remove the volume to start a new incarnation (its votes are then reported as lost)"
  answer=$(as_drain xinfo stream votes)
  [[ $answer == length* ]] || refuse "stream votes is missing from incarnation $want: $answer"
  [[ -z $cut ]] || note_cut
}

main() {
  cut=
  check_settings "$@"
  check_node
  take_lock
  check_room
  write_config 'bind 0.0.0.0' 'port 6379' <<ACL
user default reset off
user capture reset on $(digests redis-capture)~votes ~votes:torn %R~votes:inc -@all +xadd +get +ping +hello +auth
user copy reset on $(digests redis-copies)~copies:* %R~votes:inc -@all +xadd +get +ping +hello +auth
user drain reset on $(digests redis-drain)~votes ~votes:inc ~votes:torn ~copies:* -@all +xrange +xrevrange +xtrim +xlen +xinfo|stream +scan +get +ping +hello +auth
ACL
  if [[ -d $data ]]; then
    [[ -s $data/incarnation ]] || refuse "$data has no incarnation note: restore the volume, or remove it to start a new incarnation"
    [[ -d $data/appendonlydir ]] || refuse "$data has no append-only file: restore the volume, or remove it to start a new incarnation"
    redis-check-aof "$data/appendonlydir/appendonly.aof.manifest" >/dev/null 2>&1 || cut=yes
  else
    create_stream
  fi
  serve prove_data
}

main "$@"
