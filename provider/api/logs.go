package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/openfaas/faas-provider/logs"

	"waggle/provider/swarm"
)

// stalledWrite is how long a client may take no line before its stream is given up.
const stalledWrite = 30 * time.Second

// logs streams one JSON object per line. The server's write timeout is lifted: a stream lasts as long as its client.
func (a *API) logs(w http.ResponseWriter, r *http.Request) error {
	request, err := parseLogRequest(r)
	if err != nil {
		return err
	}
	// An unknown function must be a 404, so nothing is sent before the cluster had its say. Its first line, or nothing
	// being there yet, is that; until then an error is still an answer.
	if _, err := a.cluster.Status(r.Context(), request.Namespace, request.Name, false); err != nil {
		return err
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{})
	_ = out.SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if err := out.Flush(); err != nil {
		return nil //nolint:nilerr // the client has left
	}
	encoder := json.NewEncoder(w)
	err = a.cluster.Logs(r.Context(), request, func(message logs.Message) error {
		_ = out.SetWriteDeadline(time.Now().Add(stalledWrite))
		if err := encoder.Encode(message); err != nil {
			return err
		}
		return out.Flush()
	})
	switch closing := errors.Is(context.Cause(r.Context()), ErrClosing); {
	case closing:
		err = ErrClosing
	case err == nil || r.Context().Err() != nil:
		return nil //nolint:nilerr // the client has left
	default:
		a.cfg.Logger.Warn("log stream ended", "function", request.Name, "namespace", request.Namespace, "error", err)
	}
	// Whoever reads must not take the end of the stream for the end of the log.
	_ = out.SetWriteDeadline(time.Now().Add(time.Second))
	_ = encoder.Encode(swarm.LogNotice(request, "the log goes on, but this stream ends: %v", err)) // the client may have left
	return nil
}

func parseLogRequest(r *http.Request) (logs.Request, error) {
	query := r.URL.Query()
	last := func(key string) string { // of repeated parameters the last one counts
		values := query[key]
		if len(values) == 0 {
			return ""
		}
		return values[len(values)-1]
	}
	unprocessable := func(text string) error { return &requestError{http.StatusUnprocessableEntity, text} }

	request := logs.Request{Name: last("name"), Namespace: last("namespace"), Instance: last("instance"), Tail: -1}
	if request.Name == "" {
		return request, badRequest("name is missing: must be the name of a function")
	}
	if text := last("tail"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return request, unprocessable("tail is " + strconv.Quote(text) + ": must be a whole number, 0 or less for all")
		}
		request.Tail = n
	}
	if text := last("since"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return request, unprocessable("since is " + strconv.Quote(text) + ": must be a time as in 2006-01-02T15:04:05Z")
		}
		request.Since = &since
	}
	// Other providers take a value they cannot read for false, and clients have come to rely on it.
	request.Follow, _ = strconv.ParseBool(last("follow"))
	return request, nil
}
