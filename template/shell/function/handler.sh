#!/bin/sh
# Your function: the body is on standard input, the reply goes to standard output, the log to standard error. Headers are
# in the environment: $Http_Method, $Http_Path, $Http_Query, $Http_Content_Type, $Http_X_Call_Id.
set -eu
printf 'Hello! You said: %s\n' "$(cat)"
