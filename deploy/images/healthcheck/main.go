// Command healthcheck is the HEALTHCHECK of the Redis and Postgres images. It sends a request to the server in its
// container (package liveness of the template go-http), and needs neither a shell nor a password.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"waggle/template/go-http/liveness"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch server := strings.Join(args, " "); server {
	case "redis":
		return liveness.Run(ctx, askRedis("/run/votes", "/run/queue"))
	case "postgres":
		return liveness.Run(ctx, askPostgres("127.0.0.1:5432"))
	default:
		return fmt.Errorf("unknown server %q: it must be redis or postgres", server)
	}
}

// askRedis asks the server whose socket is in one of the folders. A server that is starting has it in .starting.
// Every line is an answer: NOAUTH, LOADING, MISCONF or OOM. With a full disk or a long file to load, a restart would
// make things worse.
func askRedis(folders ...string) liveness.Ask {
	return func(ctx context.Context) error {
		socket := ""
		for _, folder := range folders {
			for _, place := range []string{"/.starting/redis.sock", "/redis.sock"} {
				if _, err := os.Stat(folder + place); err == nil {
					socket = folder + place
				}
			}
		}
		if socket == "" {
			return fmt.Errorf("no server has opened redis.sock in %s", strings.Join(folders, " or "))
		}
		return liveness.Exchange("unix", socket, "PING\r\n", 1, func(string) error { return nil })(ctx)
	}
}

// askPostgres begins a session as the role that only reads, and ends it when the server asks for the password. The
// server has then accepted a connection and started a process for it. Errors such as too many sessions are answers
// too. The one exception is that of a server that takes no sessions yet or any more. The message is StartupMessage of
// the protocol 3.0, https://www.postgresql.org/docs/15/protocol-message-formats.html.
func askPostgres(address string) liveness.Ask {
	const parameters = "\x00\x03\x00\x00user\x00waggle_results\x00database\x00waggle\x00\x00"
	request := "\x00\x00\x00" + string(rune(4+len(parameters))) + parameters
	return liveness.Exchange("tcp", address, request, 1, func(answer string) error {
		const cannotConnectNow = "C57P03\x00"
		if strings.Contains(answer, cannotConnectNow) {
			return errors.New("the server takes no sessions now (57P03)")
		}
		return nil
	})
}
