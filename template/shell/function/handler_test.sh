#!/bin/sh
# Runs in the build of the image, and stops it when it fails.
set -eu
reply=$(printf bee | ./handler.sh)
[ "$reply" = "Hello! You said: bee" ] || { echo "reply is: $reply" >&2; exit 1; }
