// Command program stands for every image of a release in the test of the scripts: it runs until it is stopped, or ends at
// once when it has an argument, as `help` and `retire` do.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) > 1 {
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
}
