package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	// cancelMemory is how long a cancellation is told to gateways that connect: longer than one takes to restart.
	cancelMemory = time.Minute
	// maxCancels bounds what is kept of them, at about 100 bytes each; the oldest make room.
	maxCancels = 10_000
	// maxCallID bounds a call's id.
	maxCallID = 128
)

// ValidCallID reports whether id can name an asynchronous call. It has 1 to 128 letters, digits, '-', '_', '.'
// and '~'. The first is a letter or a digit. These need no escaping in a URL's path.
func ValidCallID(id string) bool {
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '-' || c == '_' || c == '.' || c == '~'):
		default:
			return false
		}
	}
	return id != "" && len(id) <= maxCallID
}

// CallIDRule is what ValidCallID asks for, in words.
const CallIDRule = "1 to 128 letters, digits, '-', '_', '.' and '~', the first a letter or a digit"

// cancelLine is a cancellation on the stream of tables, and the body of POST /feed/cancel. Clients that do not know it
// take it for a table without an epoch, which they ignore.
type cancelLine struct {
	Cancel string `json:"cancel,omitempty"`
}

// cancels are the recent cancellations.
type cancels struct {
	mu     sync.Mutex
	recent []cancelled   // guarded by mu; oldest first
	added  uint64        // guarded by mu; how many there ever were
	more   chan struct{} // guarded by mu; closed when one is added
	// open are the calls whose cancellation waits for the gateways' answers; guarded by mu.
	open map[string]*answers
}

// answers are what gateways have said of one call.
type answers struct {
	denied  map[gatewayProcess]bool // guarded by cancels.mu
	known   bool                    // guarded by cancels.mu; one has it
	changed chan struct{}           // receives when one has answered
	waiting int                     // guarded by cancels.mu; clients that wait for them
}

func (c *cancels) init() { c.more, c.open = make(chan struct{}), make(map[string]*answers) }

type cancelled struct {
	at   time.Time
	line []byte
}

func (c *cancels) add(line []byte, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	if len(c.recent) == maxCancels {
		c.recent = c.recent[1:]
	}
	c.recent = append(c.recent, cancelled{at: now, line: line})
	c.added++
	close(c.more)
	c.more = make(chan struct{})
}

// forget requires mu.
func (c *cancels) forget(now time.Time) {
	for len(c.recent) > 0 && now.Sub(c.recent[0].at) > cancelMemory {
		c.recent = c.recent[1:]
	}
}

// after gives the remembered lines that were added after the first seen, and what to pass next time. more is
// closed once there are more.
func (c *cancels) after(seen uint64, now time.Time) (lines []byte, added uint64, more <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	unseen := min(c.added-seen, uint64(len(c.recent)))
	for _, one := range c.recent[uint64(len(c.recent))-unseen:] {
		lines = append(lines, one.line...)
	}
	return lines, c.added, c.more
}

func (h *Hub) serveCancel(w http.ResponseWriter, r *http.Request) {
	var req cancelLine
	if !decode(w, r, maxWake, &req) {
		return
	}
	if !ValidCallID(req.Cancel) {
		http.Error(w, fmt.Sprintf("cancel is %q: legal are %s", req.Cancel, CallIDRule), http.StatusBadRequest)
		return
	}
	line, err := json.Marshal(req)
	if err != nil {
		http.Error(w, "encoding the id: "+err.Error(), http.StatusInternalServerError)
		return
	}
	a := h.cancels.await(req.Cancel)
	defer h.cancels.done(req.Cancel, a)
	h.cancels.add(append(line, '\n'), time.Now())
	if h.nobodyHas(r.Context(), a) {
		http.Error(w, ErrUnknownCall.Error(), http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// ErrUnknownCall says that every gateway has denied to have an asynchronous call.
var ErrUnknownCall = errors.New("no gateway has such a call")

// await begins to collect what gateways say of a call; done ends it.
func (c *cancels) await(id string) *answers {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.open[id]
	if a == nil {
		a = &answers{denied: make(map[gatewayProcess]bool), changed: make(chan struct{}, 1)}
		c.open[id] = a
	}
	a.waiting++
	return a
}

func (c *cancels) done(id string, a *answers) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.waiting--; a.waiting == 0 {
		delete(c.open, id)
	}
	a.note() // for another client that waits for the same
}

// note lets one that waits look again.
func (a *answers) note() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// nobodyHas waits until a gateway has the call or all have denied it, and reports the latter. A gateway that
// does not answer in time may have it. So may one that was here a moment ago: it is told when it comes back.
func (h *Hub) nobodyHas(ctx context.Context, a *answers) bool {
	timeout := time.NewTimer(h.cfg.CancelWait)
	defer timeout.Stop()
	for {
		wanted, streams := h.loads.since(time.Now().Add(-cancelMemory)), int(h.streams.Load())
		if known, all := h.cancels.verdict(a, wanted, streams); known || all {
			return !known
		}
		select {
		case <-a.changed:
		case <-timeout.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// verdict reports whether a gateway has the call, and whether all wanted, and as many as there are streams, deny it.
func (c *cancels) verdict(a *answers, wanted []gatewayProcess, streams int) (known, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all = len(a.denied) > 0 && len(a.denied) >= streams
	for _, who := range wanted {
		all = all && a.denied[who]
	}
	return a.known, all
}

// CancelAnswer is what one gateway says of a call that another one's client wants cancelled: the body of POST /feed/cancelled.
type CancelAnswer struct {
	Cancel string `json:"cancel"`
	// Gateway and Epoch are those of the gateway's reports.
	Gateway string `json:"gateway"`
	Epoch   string `json:"epoch"`
	// Known: the gateway had the call and has cancelled it.
	Known bool `json:"known"`
}

func (h *Hub) serveCancelled(w http.ResponseWriter, r *http.Request) {
	var answer CancelAnswer
	if !decode(w, r, maxWake, &answer) {
		return
	}
	if !ValidCallID(answer.Cancel) || answer.Gateway == "" || answer.Epoch == "" || len(answer.Gateway)+len(answer.Epoch) > 2*maxNameLen {
		http.Error(w, fmt.Sprintf("cancel is %q, from a gateway of %d and an epoch of %d characters: legal are %s, and 1 to %d each",
			answer.Cancel, len(answer.Gateway), len(answer.Epoch), CallIDRule, maxNameLen), http.StatusBadRequest)
		return
	}
	h.cancels.answer(answer)
	w.WriteHeader(http.StatusAccepted)
}

func (c *cancels) answer(answer CancelAnswer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.open[answer.Cancel]
	if a == nil {
		return // nobody waits for it
	}
	if answer.Known {
		a.known = true
	} else if len(a.denied) < maxGateways {
		a.denied[gatewayProcess{answer.Gateway, answer.Epoch}] = true
	}
	a.note()
}

// Cancel asks the provider to have every gateway cancel an asynchronous call; [ErrUnknownCall] if all say that they have
// none of that id.
func (c *Client) Cancel(ctx context.Context, id string) error {
	return c.post(ctx, "/feed/cancel", 5*time.Second, cancelLine{Cancel: id})
}

// AnswerCancel reports what happened here to a call that ClientConfig.Cancelled got.
func (c *Client) AnswerCancel(ctx context.Context, answer CancelAnswer) error {
	return c.post(ctx, "/feed/cancelled", 5*time.Second, answer)
}
