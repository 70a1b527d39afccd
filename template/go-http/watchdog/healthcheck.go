package watchdog

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// holdHeader asks the server to keep a check waiting, see [Server.hold].
	holdHeader = "X-Waggle-Hold"
	// holdTime is how long it does.
	holdTime = 15 * time.Second
	// checkTimeout leaves the server 2 s to answer and stays below the HEALTHCHECK's own timeout of 20 s, so that the
	// reason gets into the engine's log.
	checkTimeout = holdTime + 2*time.Second
)

// Healthcheck asks the server of this container whether it is up, and returns the exit code: 0 or 1. The first check
// in a container's life takes a moment, later ones 15 s unless something is wrong.
// The binary does it itself because its image has neither a shell nor curl.
func Healthcheck(getenv func(string) string, stderr io.Writer) int {
	env := envReader{getenv: getenv}
	port := env.integer("port", 8080, 1, 65535)
	client := http.Client{Timeout: checkTimeout}
	request, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+"/_/health", nil)
	if err != nil {
		fmt.Fprintln(stderr, "asking for health:", err)
		return 1
	}
	request.Header.Set(holdHeader, "1")
	response, err := client.Do(request)
	if err != nil {
		fmt.Fprintln(stderr, "asking for health:", err)
		return 1
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		fmt.Fprintln(stderr, "asking for health:", response.Status)
		return 1
	}
	return 0
}

// hold keeps a health check waiting as long as all is well. Each check costs the engine a process, some 50 ms of CPU,
// and yet the interval between two has to be short: it is what a cold start waits for the first. So the first check is
// answered at once and every later one lasts, which makes four a minute of sixty.
func (s *Server) hold(w http.ResponseWriter, r *http.Request) {
	if !s.checked.Swap(true) {
		return
	}
	// The reply comes later than a function's may.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(checkTimeout)); err != nil {
		return
	}
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.drainBegan:
	case <-r.Context().Done():
	}
}
