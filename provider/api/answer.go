package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"waggle/provider/swarm"
)

// handler is a route that leaves the answering of its error to [API.answer].
type handler func(w http.ResponseWriter, r *http.Request) error

// requestError is a client's mistake that is found before the cluster is asked.
type requestError struct {
	status int
	text   string
}

func (e *requestError) Error() string { return e.text }

func badRequest(format string, args ...any) error {
	return &requestError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// statusClientGone is logged when the client left before its answer; it never reaches anybody. (nginx' code for it.)
const statusClientGone = 499

// statusOf is the only place where an error becomes a status.
func statusOf(err error) int {
	var mistake *requestError
	switch {
	case errors.As(err, &mistake):
		return mistake.status
	case errors.Is(err, swarm.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, swarm.ErrForbidden):
		return http.StatusForbidden
	case errors.Is(err, swarm.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, swarm.ErrExists), errors.Is(err, swarm.ErrInUse), errors.Is(err, swarm.ErrMoved):
		return http.StatusConflict
	case errors.Is(err, swarm.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	case errors.Is(err, context.Canceled):
		return statusClientGone
	}
	return http.StatusInternalServerError
}

// ErrClosing is the cause with which whoever serves the API ends the calls that a shutdown cannot wait for.
var ErrClosing = fmt.Errorf("the provider is being replaced: %w", swarm.ErrUnavailable)

// stream ends what has no end of its own when the process is to end.
func (a *API) stream(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		defer context.AfterFunc(a.cfg.Closing, func() { cancel(ErrClosing) })()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// answer turns a route's error into its reply: one line of text that says what to change.
func (a *API) answer(handle handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		if errors.Is(err, context.Canceled) && errors.Is(context.Cause(r.Context()), ErrClosing) {
			err = ErrClosing
		}
		if errors.Is(err, context.DeadlineExceeded) && errors.Is(r.Context().Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("%w, after %s, the provider's upstream_timeout: whether the request was processed is not known", err, a.cfg.Timeout)
		}
		status := statusOf(err)
		if status >= http.StatusInternalServerError {
			a.cfg.Logger.Error("request failed", "method", r.Method, "route", r.Pattern, "status", status, "error", err)
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "2")
		}
		http.Error(w, err.Error(), status)
	})
}

// within gives a route Config.Timeout.
func (a *API) within(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), a.cfg.Timeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// guard asks for the credentials.
func (a *API) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.cfg.Credentials.Accepts(r.Header.Get("Authorization")) {
			w.Header().Set("WWW-Authenticate", `Basic realm="Restricted"`)
			http.Error(w, "invalid credentials", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// reply sends value as JSON with status 200.
func reply(w http.ResponseWriter, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(text, '\n')) // an error here is the client's absence
	return nil
}

// maxWarning bounds one warning on the wire.
const maxWarning = 500

// warn tells the client which parts of an accepted request may not do what its user means. It uses the header
// that Kubernetes uses for the same: Warning: 299 waggle "<text>", one for each. Official clients ignore it.
func warn(w http.ResponseWriter, warnings []string) {
	for _, text := range warnings {
		if len(text) > maxWarning {
			text = text[:maxWarning] + "…"
		}
		w.Header().Add("Warning", "299 waggle "+strconv.QuoteToASCII(text))
	}
}

// accepted is the success of everything that changes something.
func accepted(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusAccepted)
	return nil
}
