package drain

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waggle/worker/store"
)

// world is a few capture nodes in memory, their voters, and one worker on a real database. Every step is one of the test's.
type world struct {
	t *rapid.T
	b *bench
	// mu guards the nodes: a worker reads ahead in a goroutine.
	mu    sync.Mutex
	nodes []*memoryNode
	clock uint64 // ms of the next entry
	lives int
	cast  []*memoryVote
	// frail is the node whose disk forgets; -1: each may.
	frail int

	worker   *Drain
	drainers []*drainer
}

// memoryNode is the Redis of a capture node.
type memoryNode struct {
	name, inc string
	up        bool
	boots     int
	entries   []entry
	added     int64
	last      string
	torn      int
	copies    map[string][]entry // by origin
	batches   uint64
}

// memoryVote is a vote where it was captured, and what its voter was told.
type memoryVote struct {
	ballot
	inc, id string
	acked   bool
	copied  bool // at least once, on whatever node
	late    bool // its node had lost it before it was copied
}

func newWorld(t *rapid.T, b *bench, frail int) *world {
	b.db.SQL(`TRUNCATE vote, tally, turnout, poll_entries, vote_reject, drain_stream, drain_effect, drain_gap, drain_copy, drain_worker, drain_node, drain_check RESTART IDENTITY`)
	w := &world{t: t, b: b, clock: 1_700_000_000_000, frail: frail}
	for i := range 3 {
		w.nodes = append(w.nodes, &memoryNode{name: fmt.Sprintf("node%d", i), up: true, copies: map[string][]entry{}})
		w.begin(w.nodes[i])
	}
	w.newWorker()
	return w
}

// begin makes a new incarnation.
func (w *world) begin(n *memoryNode) {
	w.lives++
	n.inc = fmt.Sprintf("%08x-0000-4000-8000-000000000000", w.lives)
	n.entries, n.added, n.last, n.torn = nil, 0, genesisID, 0
	clear(n.copies)
}

func (w *world) newWorker() {
	w.worker = w.b.worker("w", func(d *Drain) {
		d.cfg.BatchSize = rapid.IntRange(1, 5).Draw(w.t, "batch")
		d.mostCopies = rapid.IntRange(1, 6).Draw(w.t, "copies at once")
		d.cfg.Retention = rapid.SampledFrom([]time.Duration{1, time.Hour}).Draw(w.t, "retention")
	})
	w.worker.steady.Store(0)
	w.worker.dial = func(addr string) source { return &memorySource{w: w, addr: addr} }
	w.drainers = nil
	for i := range w.nodes {
		addr := strconv.Itoa(i)
		w.worker.named[addr] = true
		w.drainers = append(w.drainers, newDrainer(w.worker, addr))
	}
}

// memorySource is a connection to a node.
type memorySource struct {
	w     *world
	addr  string
	boots int // of the server that it last spoke with
}

var errAway = errors.New("the node is away")

func (s *memorySource) node() (*memoryNode, error) {
	i, _ := strconv.Atoi(s.addr)
	if n := s.w.nodes[i]; n.up {
		return n, nil
	}
	return nil, errAway
}

func (s *memorySource) identify(context.Context) (inc, node string, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err != nil {
		return "", "", err
	}
	return n.inc, n.name, nil
}

func (s *memorySource) read(_ context.Context, inc, after string, count int) (l reading, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err != nil {
		return l, err
	}
	l.reconnected, s.boots = s.boots != n.boots+1, n.boots+1
	if n.inc != inc {
		return l, errMoved
	}
	l.added, l.last, l.held = n.added, n.last, int64(len(n.entries))
	for _, e := range n.entries {
		if compareIDs(e.id, after) > 0 && len(l.entries) < count {
			l.entries = append(l.entries, e)
		}
	}
	l.complete = len(l.entries) < count
	return l, nil
}

func (s *memorySource) trim(_ context.Context, _, before string) (n int64, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	node, err := s.node()
	if err != nil {
		return 0, err
	}
	had := len(node.entries)
	node.entries = slices.DeleteFunc(node.entries, func(e entry) bool { return compareIDs(e.id, before) < 0 })
	return int64(had - len(node.entries)), nil
}

func (s *memorySource) torn(context.Context) (string, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d-0", n.torn), nil
}

func (s *memorySource) origins(context.Context) (incs []string, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err != nil {
		return nil, err
	}
	for inc, batches := range n.copies {
		if len(batches) > 0 {
			incs = append(incs, inc)
		}
	}
	return incs, nil
}

func (s *memorySource) copies(_ context.Context, origin string, set *copySet) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err != nil {
		return err
	}
	for _, batch := range slices.Backward(n.copies[origin]) {
		if _, err := parseCopies(batch, set); err != nil {
			return err
		}
	}
	return nil
}

func (s *memorySource) lastCopy(_ context.Context, origin string) (string, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err != nil || len(n.copies[origin]) == 0 {
		return "", err
	}
	return n.copies[origin][len(n.copies[origin])-1].id, nil
}

func (s *memorySource) trimCopies(_ context.Context, origin, upTo string) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	n, err := s.node()
	if err == nil {
		n.copies[origin] = slices.DeleteFunc(n.copies[origin], func(b entry) bool { return compareIDs(b.id, upTo) <= 0 })
	}
	return err
}

func (s *memorySource) close() error { return nil }

// drawNode takes a node that is up, or nil.
func (w *world) drawNode(label string) *memoryNode {
	if n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(w.t, label)]; n.up {
		return n
	}
	return nil
}

// vote captures a ballot on a node. Its copy is made at once, later or never.
func (w *world) vote() {
	n := w.drawNode("captures")
	if n == nil {
		return
	}
	v := &memoryVote{ballot: ballot{rapid.IntRange(1, 2).Draw(w.t, "poll"), rapid.IntRange(1, 5).Draw(w.t, "voter"),
		rapid.IntRange(1, 2).Draw(w.t, "choice"), int64(rapid.IntRange(0, 3).Draw(w.t, "seq")), int64(rapid.IntRange(1, 3).Draw(w.t, "at"))}}
	w.mu.Lock()
	w.clock++
	v.inc, v.id = n.inc, fmt.Sprintf("%d-0", w.clock)
	at, _ := parseID(v.id)
	e := entry{id: v.id, at: at}
	for _, f := range v.fields() {
		e.fields = append(e.fields, f.(string))
	}
	n.entries, n.last = append(n.entries, e), v.id
	n.added++
	w.mu.Unlock()
	w.cast = append(w.cast, v)
	if rapid.IntRange(0, 3).Draw(w.t, "copy") > 0 {
		w.copy(v)
	}
}

// copy makes a copy of a vote on another node, and tells its voter.
func (w *world) copy(v *memoryVote) {
	n := w.drawNode("keeps the copy")
	if n == nil || n.inc == v.inc {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n.batches++
	line := fmt.Sprintf("%s %d %s %d %d %d\n", v.id, v.poll, voter(v.voter), v.choice, v.seq, v.at)
	n.copies[v.inc] = append(n.copies[v.inc], entry{id: fmt.Sprintf("%d-0", n.batches), fields: []string{"n", "1", "v", line}})
	// After its node has lost a vote and has been compared, a copy that comes still is older than maxCopyAge of function vote.
	for _, origin := range w.nodes {
		if origin.inc == v.inc && !slices.ContainsFunc(origin.entries, func(e entry) bool { return e.id == v.id }) && !v.copied {
			v.late = true
		}
	}
	v.copied = true
	v.acked = v.acked || !v.late
}

// fault makes a disk forget, or its node go away or come back.
func (w *world) fault() {
	i := w.frail
	if i < 0 {
		i = rapid.IntRange(0, len(w.nodes)-1).Draw(w.t, "suffers")
	}
	n := w.nodes[i]
	w.mu.Lock()
	defer w.mu.Unlock()
	switch rapid.SampledFrom([]string{"away", "killed", "cut", "wiped", "trimmed"}).Draw(w.t, "fault") {
	case "away":
		n.up = !n.up
		n.boots++ // whoever comes back is connected to anew
	case "killed":
		n.boots++
	case "cut":
		// The log has the copies, too; the end of it goes. A cut between two commands leaves no note.
		cut := rapid.IntRange(0, min(4, len(n.entries))).Draw(w.t, "entries cut")
		n.entries = n.entries[:len(n.entries)-cut]
		n.added -= int64(cut)
		if n.last = genesisID; len(n.entries) > 0 {
			n.last = n.entries[len(n.entries)-1].id
		}
		for origin, batches := range n.copies {
			n.copies[origin] = batches[:len(batches)-min(cut, len(batches))]
		}
		if w.frail < 0 || rapid.Bool().Draw(w.t, "noted") {
			n.torn++
		}
		n.boots++
	case "wiped":
		w.begin(n)
		n.boots++
	case "trimmed":
		n.entries = n.entries[rapid.IntRange(0, len(n.entries)).Draw(w.t, "entries trimmed"):]
	}
}

// work does one step of the drainer of a node.
func (w *world) work(i int) {
	d := w.drainers[i]
	d.nextCompare, d.nextClose, d.nextCopies, d.nextTrim, d.wrote = time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	w.worker.failed.Clear()
	ctx := w.b.t.Context()
	inc, node, err := d.source.identify(ctx)
	if err != nil {
		return
	}
	if d.inc != inc {
		if d.state, err = w.b.store.Register(ctx, node, inc); err != nil {
			w.t.Fatal(err)
		}
		d.inc, d.node = inc, node
		d.keep = retention{window: w.worker.cfg.Retention, entries: 3}
	}
	_, err = d.step(ctx, ctx)
	if errors.Is(err, store.ErrStale) {
		d.awaitAhead()
		err = d.reread(ctx)
	}
	if failed := (*storeError)(nil); errors.As(err, &failed) {
		w.t.Fatal(err)
	}
}

// minute lets time pass for the ledger, and counts what silent nodes had from its copies.
func (w *world) minute() {
	w.b.db.SQL(`UPDATE drain_stream SET seen_at = seen_at - interval '1 minute', closed_at = closed_at - interval '1 minute'`)
	w.worker.failed.Clear()
	for inc := range w.worker.unknown {
		w.worker.unknown[inc] = time.Now().Add(-time.Minute)
	}
	if err := w.worker.orphans(w.b.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// heal brings every node back and lets the worker finish.
func (w *world) heal() {
	w.mu.Lock()
	for _, n := range w.nodes {
		n.up = true
	}
	w.mu.Unlock()
	// With few copies at once, silent streams take many looks; one that no worker knew is registered and silent first.
	for counted, calm := "", 0; calm < 3; {
		before := counted
		w.minute()
		for i, n := range w.nodes {
			for range 4*len(w.cast) + 20 {
				if w.work(i); !w.drainers[i].unsure && w.drainers[i].state.Pos == n.last {
					break
				}
			}
		}
		counted = w.b.db.SQL(`SELECT count(*), sum(n), sum(added), (SELECT count(*) FROM drain_copy) FROM drain_stream`)
		if calm++; counted != before {
			calm = 0
		}
	}
	for i := range w.nodes {
		w.work(i)
	}
}

// finish waits for what a worker reads ahead.
func (w *world) finish() {
	for _, d := range w.drainers {
		d.awaitAhead()
	}
}

// orderOf is the key by which votes of one voter in one poll compare.
func (v *memoryVote) compare(seq, at int64, eid string, streams map[string]int32) int {
	id, _ := parseID(v.id)
	key, _ := entryKey(id, streams[v.inc])
	return cmp.Or(cmp.Compare(v.seq, seq), cmp.Compare(v.at, at), strings.Compare(hex.EncodeToString(key[:]), eid))
}

// judge compares the database with what was cast and acknowledged.
func (w *world) judge() {
	streams := map[string]int32{}
	for line := range strings.Lines(w.b.db.SQL(`SELECT inc, id FROM drain_stream`)) {
		inc, id, _ := strings.Cut(strings.TrimSpace(line), "|")
		n, _ := strconv.ParseInt(id, 10, 32)
		streams[inc] = int32(n)
	}
	type place struct {
		poll  int
		voter string
	}
	counted := map[place]bool{}
	for line := range strings.Lines(w.b.db.SQL(`SELECT poll, replace(voter::text, '-', ''), choice, seq, ts, replace(eid::text, '-', '') FROM vote`)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		poll, _ := strconv.Atoi(f[0])
		choice, _ := strconv.Atoi(f[2])
		seq, _ := strconv.ParseInt(f[3], 10, 64)
		at, _ := strconv.ParseInt(f[4], 10, 64)
		at0 := place{poll, f[1]}
		if counted[at0] {
			w.t.Fatalf("a voter has two votes: %v", f)
		}
		counted[at0] = true
		cast := false
		for _, v := range w.cast {
			if v.poll != poll || fmt.Sprintf("%032x", v.voter) != f[1] {
				continue
			}
			order := v.compare(seq, at, f[5], streams)
			cast = cast || order == 0 && v.choice == choice
			if beaten := order > 0 && poll == 1 || order < 0 && poll == 2; beaten && v.acked && w.frail >= 0 {
				w.t.Fatalf("%v is counted, and the acknowledged %+v is better", f, *v)
			}
		}
		if !cast {
			w.t.Fatalf("%v is counted, and nobody cast it", f)
		}
	}
	missing := 0
	for _, v := range w.cast {
		if _, known := streams[v.inc]; !known && w.frail < 0 {
			continue // both its disks are lost, and no worker has ever looked
		}
		if v.acked && !counted[place{v.poll, fmt.Sprintf("%032x", v.voter)}] {
			missing++
		}
	}
	reported := w.b.db.SQL(`SELECT (SELECT coalesce(sum(lost), 0) + count(*) FILTER (WHERE state = 'missing') FROM result_ledger) + (SELECT count(*) FROM result_gap)`)
	switch {
	case missing > 0 && w.frail >= 0:
		w.t.Fatalf("%d acknowledged votes are not counted although one disk alone has forgotten", missing)
	case missing > 0 && reported == "0":
		w.t.Fatalf("%d acknowledged votes are not counted, and the ledger says nothing", missing)
	}
	w.judgeLedger()
}

// judgeLedger checks that the ledger adds up, and that nothing counts as recovered that its origin still has.
func (w *world) judgeLedger() {
	if got := w.b.db.SQL(`SELECT coalesce(sum(abs(added - counted - pending - rejected - lost)), 0), coalesce(sum(pending), 0)
		FROM result_ledger`); got != "0|0" {
		w.t.Fatalf("the ledger is off by, has pending: %s\n%s", got, w.b.db.SQL(`TABLE result_ledger`))
	}
	copied := map[string]bool{}
	for _, v := range w.cast {
		copied[v.inc+"|"+v.id] = v.copied
	}
	held := map[string]bool{}
	for _, n := range w.nodes {
		for _, e := range n.entries {
			held[n.inc+"|"+e.id] = true
		}
	}
	rows := strings.Fields(w.b.db.SQL(`SELECT s.inc || '|' || c.id FROM drain_copy c JOIN drain_stream s ON s.id = c.stream`))
	for _, row := range rows {
		if !copied[row] || held[row] {
			w.t.Fatalf("%s counts as recovered: copied %v, still held %v", row, copied[row], held[row])
		}
	}
	if got := w.b.db.SQL(`SELECT coalesce(sum(recovered), 0) FROM result_ledger`); got != fmt.Sprint(len(rows)) {
		w.t.Fatalf("the ledger has %s recovered, and there are %d", got, len(rows))
	}
	for i := range w.nodes {
		if _, _, err := w.b.store.CloseLosses(w.b.t.Context(), w.nodes[i].name); err != nil {
			w.t.Fatal(err)
		}
	}
	w.b.db.SQL(`UPDATE drain_stream SET seen_at = seen_at - interval '2 minutes' WHERE node LIKE 'unknown-%'`)
	for node := range strings.Lines(w.b.db.SQL(`SELECT node FROM drain_stream WHERE node LIKE 'unknown-%' AND state = 'active'`)) {
		if _, err := w.b.store.Retire(w.b.t.Context(), strings.TrimSpace(node), false); err != nil {
			w.t.Fatal(err)
		}
	}
	checks, err := w.b.store.Verify(w.b.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	// How many are lost is not judged: after several losses of one stream the number may be off, while no vote is.
	checks = slices.DeleteFunc(checks, func(c store.Check) bool { return c.Name == "lost" })
	for _, c := range checks {
		if c.Drift != 0 {
			w.t.Fatalf("check %s drifts by %d: %s", c.Name, c.Drift, c.Detail)
		}
	}
}

// interleavings is how many are tried: each takes hundreds of statements.
const interleavings = 15

// TestAnyInterleavingOfOriginCopiesLossAndRecovery counts one vote per voter and poll, the one with the highest order key, and
// keeps a ledger that adds up. While one disk alone forgets, nothing that was acknowledged is lost; whatever is lost is reported.
func TestAnyInterleavingOfOriginCopiesLossAndRecovery(t *testing.T) {
	t.Parallel()
	for name, frail := range map[string]int{"one disk forgets": 0, "every disk forgets": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			runs, failed := 0, false
			rapid.Check(t, func(t *rapid.T) {
				if runs++; runs > interleavings && !failed {
					return
				}
				w := newWorld(t, b, frail)
				defer func() {
					w.finish()
					if reason := recover(); reason != nil {
						failed = true // what follows are attempts to find a shorter one
						panic(reason)
					}
				}()
				vote := func(t *rapid.T) { w.t = t; w.vote() }
				work := func(t *rapid.T) { w.t = t; w.work(rapid.IntRange(0, 2).Draw(t, "node")) }
				t.Repeat(map[string]func(*rapid.T){
					"vote": vote, "another vote": vote, "work": work, "more work": work,
					"a late copy": func(t *rapid.T) {
						if w.t = t; len(w.cast) > 0 {
							w.copy(w.cast[rapid.IntRange(0, len(w.cast)-1).Draw(t, "of vote")])
						}
					},
					"fault":      func(t *rapid.T) { w.t = t; w.fault() },
					"a minute":   func(t *rapid.T) { w.t = t; w.minute() },
					"new worker": func(t *rapid.T) { w.t = t; w.finish(); w.newWorker() },
				})
				w.t = t
				w.heal()
				w.judge()
				before := b.db.SQL(`SELECT * FROM vote ORDER BY poll, voter; SELECT * FROM result_tally ORDER BY poll, choice; SELECT sum(recovered), sum(lost), sum(counted) FROM result_ledger`)
				w.heal()
				if after := b.db.SQL(`SELECT * FROM vote ORDER BY poll, voter; SELECT * FROM result_tally ORDER BY poll, choice; SELECT sum(recovered), sum(lost), sum(counted) FROM result_ledger`); after != before {
					t.Fatalf("a second recovery has changed\n%s\ninto\n%s", before, after)
				}
			})
		})
	}
}
