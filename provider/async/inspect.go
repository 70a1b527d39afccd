package async

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/provider/feed"
)

// maxListed bounds a list of dead letters; defaultListed is what an operator gets who asks for no number.
const maxListed, defaultListed = 1000, 100

// overview is the answer to GET /system/queue: this gateway's own queue, not those of others.
type overview struct {
	Queue string `json:"queue"`
	// Connected and Owner: the calls are being made.
	Connected bool `json:"connected"`
	Owner     bool `json:"owner"`
	// Pending calls wait, Running ones are being made; Callbacks wait or are being delivered.
	Pending   int `json:"pending"`
	Running   int `json:"running"`
	Callbacks int `json:"callbacks"`
	Dead      int `json:"dead"`
	// OldestSeconds is the age of the oldest call that is not a dead letter.
	OldestSeconds float64            `json:"oldest_seconds"`
	Functions     []functionOverview `json:"functions"`
}

type functionOverview struct {
	Function      string  `json:"function"`
	Pending       int     `json:"pending"`
	Running       int     `json:"running"`
	Callbacks     int     `json:"callbacks"`
	OldestSeconds float64 `json:"oldest_seconds"`
}

// deadLetter is one of the answer to GET /system/queue/dead.
type deadLetter struct {
	ID       string    `json:"call_id"`
	Function string    `json:"function"`
	Reason   string    `json:"reason"`
	Accepted time.Time `json:"accepted"`
	Died     time.Time `json:"died"`
	// Callback says that only the result was not delivered: queued again, the function is not called.
	Callback bool `json:"callback_only,omitempty"`
}

// Inspect answers operators: target is what follows /system/queue. They get JSON below status 400, an error's text above.
//
//	GET    ""                  what waits, runs and is dead
//	GET    /dead?limit=<n>     the newest dead letters
//	POST   /dead/<call id>     queues one again
//	DELETE /dead/<call id>     drops one
func (q *Queue) Inspect(ctx context.Context, method, target string) (status int, body []byte) {
	answer, err := q.inspect(ctx, method, target)
	if err == nil {
		body, err = json.Marshal(answer)
	}
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			return r.status, []byte(r.reason)
		}
		return http.StatusInternalServerError, []byte(err.Error())
	}
	status = http.StatusOK
	if method != http.MethodGet {
		status = http.StatusAccepted
	}
	return status, append(body, '\n')
}

func (q *Queue) inspect(ctx context.Context, method, target string) (any, error) {
	if err := q.awaitLoaded(ctx); err != nil {
		return nil, err
	}
	path, query, _ := strings.Cut(target, "?")
	id, isLetter := strings.CutPrefix(path, "/dead/")
	switch {
	case path == "" || path == "/":
		if method != http.MethodGet {
			return nil, refuse(405, "legal methods: GET")
		}
		return q.overview(time.Now()), nil
	case path == "/dead":
		if method != http.MethodGet {
			return nil, refuse(405, "legal methods: GET")
		}
		return q.listDead(ctx, query)
	case isLetter && !feed.ValidCallID(id):
		return nil, refuse(400, "call id: legal are %s", feed.CallIDRule)
	case isLetter && (method == http.MethodPost || method == http.MethodDelete) && !q.health.Load().owner:
		// The process that makes the calls would not hear of it.
		return nil, refuse(503, "this gateway does not make the calls of its Redis now: try again, or ask the one that does")
	case isLetter && method == http.MethodPost:
		return q.requeueDead(ctx, id)
	case isLetter && method == http.MethodDelete:
		return q.discardDead(ctx, id)
	case isLetter:
		return nil, refuse(405, "legal methods: POST to queue it again, DELETE to drop it")
	}
	return nil, refuse(404, "legal paths: /system/queue, /system/queue/dead, /system/queue/dead/<call id>")
}

func (q *Queue) overview(now time.Time) overview {
	h := q.health.Load()
	o := overview{Queue: queueName, Connected: h.connected, Owner: h.owner, Dead: q.index.deadLetters(), Functions: []functionOverview{}}
	for _, c := range q.index.counts() {
		f := functionOverview{Function: c.function, Pending: c.waiting[invocation], Running: c.running[invocation], Callbacks: c.waiting[callback] + c.running[callback]}
		if c.oldest > 0 {
			f.OldestSeconds = max(now.Sub(time.UnixMilli(c.oldest)), 0).Seconds()
		}
		o.Pending, o.Running, o.Callbacks = o.Pending+f.Pending, o.Running+f.Running, o.Callbacks+f.Callbacks
		o.OldestSeconds = max(o.OldestSeconds, f.OldestSeconds)
		o.Functions = append(o.Functions, f)
	}
	slices.SortFunc(o.Functions, func(a, b functionOverview) int { return cmp.Compare(a.Function, b.Function) })
	return o
}

func (q *Queue) listDead(ctx context.Context, query string) (any, error) {
	limit := defaultListed
	values, err := url.ParseQuery(query)
	if text := values.Get("limit"); err == nil && text != "" {
		limit, err = strconv.Atoi(text)
	}
	if err != nil || limit < 1 || limit > maxListed {
		return nil, refuse(400, "limit: legal is 1 to %d", maxListed)
	}
	newest, err := q.store.newestDead(ctx, int64(limit))
	if err != nil {
		return nil, storeRefusal(err)
	}
	ids := make([]string, len(newest))
	for i, z := range newest {
		ids[i], _ = z.Member.(string)
	}
	texts, err := q.store.states(ctx, ids)
	if err != nil {
		return nil, storeRefusal(err)
	}
	letters := []deadLetter{}
	for i, text := range texts {
		st, err := decodeState(text)
		if err != nil {
			continue // it has just gone
		}
		letters = append(letters, deadLetter{ID: ids[i], Function: st.Function, Reason: st.Reason, Accepted: time.UnixMilli(st.Accepted).UTC(),
			Died: time.UnixMilli(int64(newest[i].Score)).UTC(), Callback: st.Owed})
	}
	return letters, nil
}

// requeueDead queues a dead letter again, as often as it would be tried if it were new.
func (q *Queue) requeueDead(ctx context.Context, id string) (any, error) {
	e := q.index.exhume(id)
	if e == nil {
		return nil, refuse(404, "no such dead letter")
	}
	st := e.state
	st.Phase, st.Tries, st.Reason, st.Owed = invoking, 0, "", false
	if e.state.Owed {
		st.Phase = delivering
	}
	now := q.clock.now().UnixMilli()
	if err := q.store.revive(ctx, id, st, now); err != nil {
		q.index.relapse(e)
		q.doubt(err)
		return nil, storeRefusal(err)
	}
	q.index.admit(e, st, now)
	return map[string]string{"call_id": id}, nil
}

func (q *Queue) discardDead(ctx context.Context, id string) (any, error) {
	e := q.index.exhume(id)
	if e == nil {
		return nil, refuse(404, "no such dead letter")
	}
	if err := q.dropDead(ctx, []*entry{e}); err != nil {
		return nil, storeRefusal(err)
	}
	return map[string]string{"call_id": id}, nil
}
