// Package feed carries the replica table from the provider to every gateway, and the gateways' load back.
//
// In: the provider's watch of Swarm publishes a [Table] whenever it changed. Out: each gateway holds the newest
// table it has received and routes by it alone. A table is always whole, never a difference. So a gateway that
// missed any number of them is right again with the next one. Without a provider it goes on with the last.
package feed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// State is where a replica stands in its life.
type State string

const (
	// Preparing means that a node has been found and the container does not run yet.
	Preparing State = "preparing"
	// Starting means that the container runs but has not passed its health check: requests go there once it answers.
	Starting State = "starting"
	// Ready means the replica takes requests.
	Ready State = "ready"
	// Draining means Swarm is about to stop it, or has asked it to stop: no new request goes there, running ones finish.
	Draining State = "draining"
)

// Table is every function the provider knows, at one moment. It is immutable once published.
type Table struct {
	// Epoch names the provider process that made the table; Revision grows by one with each change within an epoch.
	Epoch    string `json:"epoch"`
	Revision uint64 `json:"revision"`
	// Functions is sorted by namespace, then name.
	Functions []Function `json:"functions"`
	// Down are the ids of the Swarm nodes that do not answer, sorted: no replica on one is in the table.
	Down []string `json:"down,omitempty"`
}

// Function is one deployed function and what a gateway must know to invoke it.
type Function struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Service is the Swarm service's name; tasks.<Service> resolves on the functions overlay.
	Service string `json:"service"`
	// Desired is the number of replicas Swarm is asked to run; 0 means scaled to zero.
	Desired uint64 `json:"desired"`
	// Nodes is how many nodes may get a replica.
	Nodes int `json:"nodes,omitempty"`
	// Scale is how Desired follows the load.
	Scale Scale `json:"scale"`
	// Unscaled leaves Desired to operators and alerts (annotation com.waggle.autoscale=false).
	Unscaled bool `json:"unscaled,omitempty"`
	// Trouble is what keeps replicas from starting.
	Trouble Trouble `json:"trouble,omitzero"`
	// Updating is true while Swarm replaces replicas, by an update or a rollback.
	Updating bool `json:"updating,omitempty"`
	// MaxInflight is the most requests one replica accepts at once, from the function's max_inflight; 0 means no limit.
	MaxInflight int `json:"max_inflight,omitempty"`
	// ExecTimeout and WriteTimeout are what the function's own settings of these names allow one call; 0: not set.
	ExecTimeout  time.Duration `json:"exec_timeout,omitempty"`
	WriteTimeout time.Duration `json:"write_timeout,omitempty"`
	// CORS lets pages of other origins call the function (annotations com.waggle.cors.*); nil leaves that to the function.
	CORS *CORS `json:"cors,omitempty"`
	// Idempotent permits repeating a request whose outcome is unknown (annotation com.waggle.idempotent).
	Idempotent bool `json:"idempotent,omitempty"`
	// HoldBrowsers keeps people without a waiting page while the function starts (annotation com.waggle.waiting.page=false).
	HoldBrowsers bool `json:"hold_browsers,omitempty"`
	// WaitingText stands on that page instead of the gateway's own sentence (annotation com.waggle.waiting.text).
	WaitingText string `json:"waiting_text,omitempty"`
	// HealthPath is asked before a fresh replica is trusted (annotation com.waggle.health.path); never empty.
	HealthPath string `json:"health_path"`
	// Retry is what the annotations com.openfaas.retry.* say; nil says nothing.
	Retry *Retry `json:"retry,omitempty"`
	// Replicas is sorted by ID.
	Replicas []Replica `json:"replicas,omitempty"`
}

// Trouble is what keeps replicas of a function from starting. The zero value is none.
type Trouble struct {
	// Unplaced replicas wait for a node with room.
	Unplaced int `json:"unplaced,omitempty"`
	// Failed counts those that have ended within a minute of their start, in the last minute.
	Failed int `json:"failed,omitempty"`
	// Reason is what Swarm says of the newest of them.
	Reason string `json:"reason,omitempty"`
}

// CORS says which web pages may call a function from another origin than its own.
type CORS struct {
	// Origins are scheme://host[:port]; a single "*" allows every origin.
	Origins []string `json:"origins"`
	// Credentials allows cookies and HTTP authentication; never together with "*".
	Credentials bool `json:"credentials,omitempty"`
}

// Retry is how the asynchronous calls of a function are repeated. What is nil or empty is left to the gateway's settings.
type Retry struct {
	// Attempts is how often a call is sent again; 0 is never.
	Attempts *int `json:"attempts,omitempty"`
	// Codes are the statuses of the function after which a call is sent again.
	Codes []int `json:"codes,omitempty"`
	// MinWait and MaxWait bound the pause before each repetition.
	MinWait *time.Duration `json:"min_wait,omitempty"`
	MaxWait *time.Duration `json:"max_wait,omitempty"`
}

// Replica is one task of a function's service.
type Replica struct {
	// ID is the Swarm task's id.
	ID string `json:"id"`
	// Address is host:port on the functions overlay.
	Address string `json:"address"`
	// Node is the id of the Swarm node it runs on.
	Node  string `json:"node"`
	State State  `json:"state"`
}

// Snapshot is one table and the signal that it is no longer the newest.
type Snapshot struct {
	Table Table
	// Changed is closed once a newer snapshot can be had from where this one came.
	Changed chan struct{}
}

const (
	// maxTable bounds one line of the stream: 5,000 functions of 20 replicas at about 150 bytes each are 15 MB.
	maxTable = 64 << 20
	// stalledWrite is how long one write to a gateway, of onePiece at most, may take before its stream is given up; it
	// reconnects.
	stalledWrite = 10 * time.Second
	onePiece     = 64 << 10
)

// emptyLine is a heartbeat.
var emptyLine = []byte("\n")

// Publish makes t the table that every gateway gets next. Publish only tables made from a complete listing: a gateway
// answers 404 for what a table leaves out. The caller must not change t afterwards.
func (h *Hub) Publish(t Table) {
	line, err := json.Marshal(t)
	if err != nil {
		// Table holds strings, integers and finite floats only; a NaN target is the one thing that could get here.
		h.cfg.Logger.Error("encoding the replica table failed", "error", err)
		return
	}
	h.loads.published(t)
	old := h.newest.Swap(&encoded{Snapshot{Table: t, Changed: make(chan struct{})}, append(line, '\n')})
	close(old.Changed)
}

// Newest is the last table published; before the first one its Table has an empty Epoch. See [Client.Newest] for how to
// wait for a change.
func (h *Hub) Newest() *Snapshot { return &h.newest.Load().Snapshot }

func (h *Hub) serveTable(w http.ResponseWriter, r *http.Request) {
	h.streams.Add(1)
	defer h.streams.Add(-1)
	out := http.NewResponseController(w)
	// The server's own deadlines are for calls that end; this one does not. Recorders without deadlines are fine too.
	_ = out.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	send := func(line []byte) error {
		for piece := range slices.Chunk(line, onePiece) {
			_ = out.SetWriteDeadline(time.Now().Add(stalledWrite))
			if _, err := w.Write(piece); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
		return nil
	}
	heartbeat := time.NewTicker(h.cfg.Heartbeat)
	defer heartbeat.Stop()
	newest := h.newest.Load()
	line := newest.line
	if line == nil {
		line = emptyLine
	}
	told, seen, more := h.cancels.after(0, time.Now())
	if len(told) > 0 && send(told) != nil {
		return
	}
	for send(line) == nil {
		select {
		case <-more:
			line, seen, more = h.cancels.after(seen, time.Now())
		case <-newest.Changed:
			// Whatever was published while the last write was stuck is skipped: only the newest matters.
			newest = h.newest.Load()
			line = newest.line
		case <-heartbeat.C:
			line = emptyLine
		case <-r.Context().Done():
			return
		}
	}
}

// Newest is the last table received. Before the first one its Table has an empty Epoch. To wait for a change, take
// Newest, look, then wait on its Changed: a change in between has closed that channel already.
func (c *Client) Newest() *Snapshot { return c.newest.Load() }

// follow reads one stream until it ends and says how many lines it brought.
func (c *Client) follow(ctx context.Context) (lines int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.cfg.Watchdog, func() {
		cancel(fmt.Errorf("nothing heard for %s", c.cfg.Watchdog))
	})
	defer watchdog.Stop()
	resp, err := c.send(ctx, http.MethodGet, "/feed/table", nil)
	if err != nil {
		return 0, cmpCause(ctx, fmt.Errorf("connecting to the provider: %w", err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("connecting to the provider: it answered %s", resp.Status)
	}
	in := bufio.NewReaderSize(heard{resp.Body, func() { watchdog.Reset(c.cfg.Watchdog) }}, 64<<10)
	for {
		line, err := readLine(in)
		if err != nil {
			return lines, cmpCause(ctx, fmt.Errorf("reading the table stream: %w", err))
		}
		lines++
		if c.goneSince.Swap(0) != 0 {
			c.cfg.Logger.Info("provider connected")
		}
		if len(line) == 0 {
			continue
		}
		var news struct {
			Table
			cancelLine
		}
		if err := json.Unmarshal(line, &news); err != nil {
			return lines, fmt.Errorf("decoding a replica table: %w", err)
		}
		if ValidCallID(news.Cancel) {
			c.cfg.Cancelled(news.Cancel)
		}
		c.take(news.Table)
	}
}

// heard is called for all that arrives: a long table over a slow line is no silence.
type heard struct {
	io.Reader
	note func()
}

func (h heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.note()
	}
	return n, err
}

// take makes t the newest table unless it is an older one of the same provider process.
func (c *Client) take(t Table) {
	old := c.newest.Load()
	if t.Epoch == "" || (t.Epoch == old.Table.Epoch && t.Revision <= old.Table.Revision) {
		return
	}
	c.newest.Store(&Snapshot{Table: t, Changed: make(chan struct{})})
	close(old.Changed)
}

// cmpCause prefers the watchdog's reason to the bare "context canceled" that it leads to.
func cmpCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// readLine returns the next line without its end, at most maxTable bytes long.
func readLine(in *bufio.Reader) ([]byte, error) {
	var long []byte
	for {
		part, err := in.ReadSlice('\n')
		if err == nil && long == nil {
			return bytes.TrimSuffix(part, emptyLine), nil
		}
		long = append(long, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(long, emptyLine), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(long) > maxTable:
			return nil, fmt.Errorf("a table is longer than %d bytes", maxTable)
		}
	}
}
