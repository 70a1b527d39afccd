package results

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	// maxStreams bounds the watchers of one replica, below max_inflight in stack.yml, so that they leave room for everybody
	// else. Whoever finds no place is told to come back, and fetches what changed meanwhile.
	maxStreams = 400
	// streamLife is how long a stream lasts, give or take a third, before the browser opens a new one. That spreads
	// watchers over replicas that have come since, and a replica that is to end is not kept by them for long.
	streamLife = 20 * time.Second
	// quiet is how often a stream says something although no number changed, so that its page shows the time of the count.
	quiet = 5 * time.Second
	// slowWatcher ends the stream of a client that takes nothing.
	slowWatcher = 5 * time.Second
)

// stream sends the parts of a page as they change: first all of them, then those that differ.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, q question, v *view) {
	if q.once {
		h.sendParts(w, q, v)
		return
	}
	if h.streams.Add(1) > maxStreams {
		h.streams.Add(-1)
		w.Header().Set("Retry-After", "10")
		p := &problem{http.StatusServiceUnavailable, "too_many_streams", "This replica has as many watchers as it takes; ask again in some seconds."}
		p.answer(w, q.form)
		return
	}
	defer h.streams.Add(-1)
	w.Header().Set("Content-Type", contentTypes[formatEvents])
	w.Header().Set("X-Accel-Buffering", "no") // nginx would gather events
	if r.Method == http.MethodHead {
		return
	}
	end := time.NewTimer(streamLife*2/3 + rand.N(streamLife*2/3))
	defer end.Stop()
	control := http.NewResponseController(w)
	// A transport without deadlines leaves slow watchers to the gateway, which has its own.
	extend := func() { _ = control.SetWriteDeadline(time.Now().Add(slowWatcher)) }
	defer extend() // for the end of the body
	var last *view
	var said time.Time
	for {
		// The parts that changed fit a page of the view before; whoever missed one gets them all.
		if last == nil || v.content != last.content || v.report.Stale != last.report.Stale || time.Since(said) >= quiet {
			parts, err := v.changes(q.form, last)
			if err != nil {
				h.logger.Error("rendering the results failed", "error", err)
				return
			}
			extend()
			if _, err := w.Write(event(parts)); err != nil || control.Flush() != nil {
				return
			}
			last, said = v, time.Now()
		}
		select {
		case <-v.newer:
			v = h.view.Load()
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// event is one message of a stream. JSON has no line breaks of its own.
func event(data []byte) []byte {
	return bytes.Join([][]byte{[]byte("data: "), data, []byte("\n\n")}, nil)
}

// sendParts answers with all parts at once, for whoever has no stream.
func (h *handler) sendParts(w http.ResponseWriter, q question, v *view) {
	parts, err := v.changes(q.form, nil)
	if err != nil {
		h.logger.Error("rendering the results failed", "error", err)
		p := &problem{http.StatusInternalServerError, "internal", "The results cannot be shown."}
		p.answer(w, q.form)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=1")
	w.Header().Set("Content-Type", contentTypes[formatJSON])
	_, _ = w.Write(parts) // the client may be gone
}
