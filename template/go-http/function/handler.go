// Package function is where your code goes: Handle gets every request. A function can also have set-up with an error
// that stops the start, readiness, a flush at the end, and metrics. The template's README.md says how.
package function

import (
	"fmt"
	"io"
	"net/http"
)

const maxBody = 1 << 20

// Handle answers one request.
func Handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "reading the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "Hello! You said: %s\n", body)
}
