// Package function is the function behind the measured chain. It does the least a function can do, so that a
// call's cost is that of everything around it.
package function

import (
	"context"
	"io"
	"net/http"
)

// New returns a handler that reads the body and answers 12 bytes.
func New(context.Context) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
		_, _ = io.WriteString(w, "Hello World\n")
	}), nil
}
