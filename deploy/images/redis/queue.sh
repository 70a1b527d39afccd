#!/bin/bash
# Starts the Redis that holds a gateway's asynchronous calls.
#
# In:  /data and /run/queue, the secret redis-queue, REDIS_MAXMEMORY.
# Out: a server on /run/queue/redis.sock and nowhere else. Its default user is on, with that password: Redis 7.0 would
#      drop the transactions of its log on restart otherwise, should anybody ever use one.
#
# It guarantees what server.sh does, and that a volume whose calls are gone is an incident, never a fresh start.
readonly sockets=/run/queue
readonly secrets=redis-queue
. /usr/local/bin/server.sh

ping_server() { REDISCLI_AUTH=$(password redis-queue) redis-cli -s "$starting/redis.sock" --no-auth-warning ping 2>/dev/null; }

prove_data() {
  await_answer ping_server
  [[ $answer == PONG ]] || refuse "the server does not take its own password: $answer"
}

main() {
  check_settings "$@"
  take_lock
  check_room
  write_config 'port 0' <<ACL
user default reset on $(digests redis-queue)~async:* -@all +@read +@write +@connection +@transaction -@dangerous +info +eval
ACL
  if [[ -n $(find "$data" -mindepth 1 -print -quit 2>/dev/null) && ! -d $data/appendonlydir ]]; then
    refuse "$data has no append-only file: restore the volume, or remove it to start with an empty queue (its calls are lost then)"
  fi
  mkdir -p "$data"
  serve prove_data
}

main "$@"
