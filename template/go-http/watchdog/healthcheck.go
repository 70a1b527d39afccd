package watchdog

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// checkTimeout stays below the HEALTHCHECK's own timeout, so that the reason gets into the engine's log.
const checkTimeout = 2 * time.Second

// Healthcheck asks the server of this container whether it is up, and returns the exit code: 0 or 1.
// The binary does it itself because its image has neither a shell nor curl.
func Healthcheck(getenv func(string) string, stderr io.Writer) int {
	env := envReader{getenv: getenv}
	port := env.integer("port", 8080, 1, 65535)
	client := http.Client{Timeout: checkTimeout}
	response, err := client.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/_/health")
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
