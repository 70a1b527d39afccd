#!/bin/sh
# faas-cli lays the handler over the template's sample, and what the author has deleted comes back from there. So the
# sample's test, $1 in this folder, goes once the handler is no longer the sample.
set -eu
sums=$(dirname "$0")/sample.sum
if ! sha256sum --check --status "$sums" && grep -F "  $1" "$sums" | sha256sum --check --status; then
  echo "left out the sample's $1, since the handler is no longer the sample"
  rm "$1"
fi
