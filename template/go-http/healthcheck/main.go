// Command healthcheck is the HEALTHCHECK of a function's image. It sends a request to the function's server on
// loopback, see package liveness. It is a program of its own because it must be small and start at once. A check that
// ran the function's binary would also run every init of the handler's packages, and hold their memory meanwhile.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"waggle/template/go-http/liveness"
)

func main() {
	if err := liveness.Run(context.Background(), liveness.HTTP(address(os.Getenv), "/_/health", 0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// address is where the function listens. A port that is no number is the function's to refuse.
func address(getenv func(string) string) string {
	return "127.0.0.1:" + cmp.Or(getenv("port"), "8080")
}
