package watchdog

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// checkedHeader marks the server's replies to this container but the first. Others' requests do not count: what a
	// voter sends must not change what the engine's checks do.
	checkedHeader = "X-Waggle-Checked"
	ownAddress    = "127.0.0.1:"
	// askTimeout is how long the server may take to answer one request of a check, askInterval the time between two.
	askTimeout, askInterval = 2 * time.Second, 3 * time.Second
	// watchTime and askTimeout together stay below the HEALTHCHECK's own timeout of 75 s, so that the reason gets into
	// the engine's log.
	watchTime = time.Minute
)

// Healthcheck asks the server of this container whether it is up, and returns the exit code: 0 or 1. The first check
// in a container's life takes a moment. A later one goes on asking for a minute and ends early only if something is
// wrong: each check costs the engine a process, some 50 ms of CPU, and yet the interval between two has to be short,
// since it is what a cold start waits for the first.
// The binary does it itself because its image has neither a shell nor curl.
func Healthcheck(getenv func(string) string, stderr io.Writer) int {
	env := envReader{getenv: getenv}
	url := "http://" + ownAddress + strconv.Itoa(env.integer("port", 8080, 1, 65535)) + "/_/health"
	client := http.Client{Timeout: askTimeout}
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		first, err := ask(client, url)
		if err != nil {
			fmt.Fprintln(stderr, "asking for health:", err)
			return 1
		}
		if first || time.Since(began) >= watchTime {
			return 0
		}
	}
}

func ask(client http.Client, url string) (first bool, err error) {
	response, err := client.Get(url)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return false, errors.New(response.Status)
	}
	return response.Header.Get(checkedHeader) == "", nil
}
