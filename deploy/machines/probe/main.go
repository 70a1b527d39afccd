// Command probe runs on a machine for the deploy program, which copies it there over ssh. It says what the machine
// is, tries the ways to other machines, and joins the Swarm. It needs nothing but the kernel and the engine's socket.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"waggle/deploy/machines/report"
)

// listenAtMost ends a listener whose deploy program is gone without closing its input.
const listenAtMost = 2 * time.Minute

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: probe facts | listen ADDRESS | reach | join")
	}
	ctx, cancel := context.WithTimeout(context.Background(), listenAtMost)
	defer cancel()
	switch command := os.Args[1]; {
	case command == "facts":
		return print(facts(ctx))
	case command == "listen" && len(os.Args) == 3:
		return listen(ctx, os.Args[2])
	case command == "reach":
		var request report.Reach
		if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
			return fmt.Errorf("reading what to reach: %w", err)
		}
		return print(reach(ctx, request))
	case command == "join":
		var request report.Join
		if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
			return fmt.Errorf("reading what to join: %w", err)
		}
		return join(ctx, request)
	default:
		return fmt.Errorf("no such command: %q", os.Args[1:])
	}
}

func print(answer any) error { return json.NewEncoder(os.Stdout).Encode(answer) }
