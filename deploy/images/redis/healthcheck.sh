#!/bin/bash
# Tells a dead server from one that refuses: NOAUTH, LOADING, MISCONF or OOM are answers, and killing a server with a
# full disk or a long file to load would make things worse. Exit 0: it answered something.
set -u
for socket in /run/{votes,queue}/{,.starting/}redis.sock; do
  [[ -S $socket ]] && break
done
answer=$(timeout 3 redis-cli -s "$socket" ping 2>/dev/null)
# redis-cli says "Could not connect" on the error stream; an answer of the server is on the output.
[[ -n $answer ]]
