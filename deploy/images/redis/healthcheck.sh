#!/bin/bash
# Tells a dead server from one that refuses: NOAUTH, LOADING, MISCONF or OOM are answers, and killing a server with a
# full disk or a long file to load would make things worse. Exit 0: it answered something.
# With --watch, every check but the first that passes in a container's life goes on asking for a minute: each costs the
# engine a process, some 50 ms of CPU, and yet the interval between two has to be short, since a start waits for one.
set -u

answers() {
  local socket answer
  for socket in /run/{votes,queue}/{,.starting/}redis.sock; do
    [[ -S $socket ]] && break
  done
  answer=$(timeout 3 redis-cli -s "$socket" ping 2>/dev/null)
  # redis-cli says "Could not connect" on the error stream; an answer of the server is on the output.
  [[ -n $answer ]]
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
