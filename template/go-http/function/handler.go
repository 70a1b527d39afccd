// Package function is where your code goes. New runs once, when the function starts; the handler it returns gets
// every request. README.md of the template says what else a function can have: start-up errors, readiness, a flush.
package function

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

const maxBody = 1 << 20

// New builds the function. An error stops the start, and its text is in the log. ctx ends when the function stops.
func New(ctx context.Context) (http.Handler, error) {
	return http.HandlerFunc(handle), nil
}

func handle(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "reading the body: "+err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "Hello! You said: %s\n", body)
}
