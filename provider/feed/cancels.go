package feed

import (
	"encoding/json"
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

// ValidCallID reports whether id can name an asynchronous call: 1 to 128 letters, digits, '-', '_', '.' and '~', the
// first a letter or a digit. These need no escaping in a URL's path.
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
}

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

// after gives the lines of those that were added after the first seen and are still remembered, what to pass next time,
// and a channel that is closed once there are more.
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
	h.cancels.add(append(line, '\n'), time.Now())
	w.WriteHeader(http.StatusAccepted)
}
