package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"waggle/worker/store"
)

// Each vote is on the disk of a second capture node, in the stream copies:<incarnation of the first, its origin>. One
// entry there is a batch: n, the number of votes, and v, a line for each. A line has the entry's id at its origin,
// poll, voter, choice, sequence and time. A copy is made after the origin has stored its entry, so what has a copy
// was at the origin. Two rules follow:
//
//   - If the origin answers, a copy whose id it does not hold was lost. It is compared when a connection to it is new,
//     for then its log may have been cut, and when entries are missing (drainer.compare).
//   - If the origin is silent or gone, every copy beyond its position is a vote that is not counted yet (Drain.orphans).
//
// A vote counted from its copy has the order key of its entry, so the entry itself changes nothing should it come after all.
const copiesKey = "copies:"

const (
	// copyPage is how many batches one read of copies asks for; a batch has 512 votes at most.
	copyPage = 64
	// maxDisorder is how much older than the batch before it a batch may be, in ms. A copy that was not confirmed
	// within 15 s of its entry (functions/vote, maxCopyAge) belongs to a vote that nobody was told is recorded.
	maxDisorder = 60_000
	// maxCopies bounds what is held in memory at once: some 250 MB. What is beyond it is read when that has been counted.
	maxCopies = 1_000_000
	// compareEvery is the pause between two attempts to compare a stream with copies that could not all be read.
	compareEvery = 2 * time.Second
	// peerTimeout is how long another node may take to say who it is; peerPause is how long it is left alone if it does not.
	peerTimeout = time.Second
	peerPause   = 15 * time.Second
)

// copySet gathers copies of an origin's entries, whatever their order. Repeated ones are the same. It holds no more than
// most: when there are more, it keeps those with the lowest ids.
type copySet struct {
	after streamID               // only later entries are wanted
	skip  func(at streamID) bool // and not these
	most  int
	// upTo is the last id that is still wanted, once there were too many; else zero.
	upTo  streamID
	votes map[streamID]entry
}

func (d *Drain) newCopySet(after string, skip func(streamID) bool) (*copySet, error) {
	from, err := parseID(after)
	return &copySet{after: from, skip: skip, most: d.mostCopies, votes: map[streamID]entry{}}, err
}

// full reports whether there were too many, so that entries after upTo are still to be read.
func (c *copySet) full() bool { return c.upTo != streamID{} }

func (c *copySet) add(e entry) {
	if e.at.compare(c.after) <= 0 || c.full() && e.at.compare(c.upTo) > 0 || c.skip(e.at) {
		return
	}
	if c.votes[e.at] = e; len(c.votes) <= c.most {
		return
	}
	order := slices.SortedFunc(maps.Keys(c.votes), streamID.compare)
	c.upTo = order[len(order)/2]
	maps.DeleteFunc(c.votes, func(at streamID, _ entry) bool { return at.compare(c.upTo) > 0 })
}

// copies reads the copies of an origin's entries into a set, newest batch first.
func (s *redisSource) copies(ctx context.Context, origin string, set *copySet) error {
	for upTo := "+"; ; {
		asking, cancel := context.WithTimeout(ctx, readTimeout)
		reply, err := s.client.Do(asking, "XREVRANGE", copiesKey+origin, upTo, "-", "COUNT", copyPage).Result()
		cancel()
		if err != nil {
			return fmt.Errorf("reading copies: %w", err)
		}
		batches, err := parseEntries(reply)
		if err != nil {
			return err
		}
		// One old batch shows nothing: a replica that was frozen sends its copies late. A page of them ends the search.
		old := true
		for _, batch := range batches {
			newest, err := parseCopies(batch, set)
			if err != nil {
				return err
			}
			old = old && newest.ms+maxDisorder < set.after.ms
		}
		if old || len(batches) < copyPage {
			return nil
		}
		upTo = "(" + batches[len(batches)-1].id
	}
}

// parseCopies adds the votes of a batch to a set, and returns the newest id in it.
func parseCopies(batch entry, set *copySet) (newest streamID, err error) {
	if len(batch.fields) != 4 || batch.fields[2] != "v" {
		return newest, fmt.Errorf("copies %s: not the fields n and v", batch.id)
	}
	for line := range strings.Lines(batch.fields[3]) {
		f := strings.Fields(line)
		if len(f) != 6 {
			return newest, fmt.Errorf("copies %s: a line has %d words, not 6", batch.id, len(f))
		}
		at, err := parseID(f[0])
		if err != nil {
			return newest, fmt.Errorf("copies %s: %w", batch.id, err)
		}
		if at.compare(newest) > 0 {
			newest = at
		}
		set.add(entry{id: f[0], at: at, fields: []string{"p", f[1], "v", f[2], "c", f[3], "s", f[4], "t", f[5]}})
	}
	return newest, nil
}

// uuidLength is that of an incarnation; a probe of function vote names none.
const uuidLength = 36

// origins lists the incarnations that have copies here. What was dropped leaves an empty stream.
func (s *redisSource) origins(ctx context.Context) (incs []string, err error) {
	for keys := s.client.Scan(ctx, 0, copiesKey+"*", 1000).Iterator(); ; {
		if !keys.Next(ctx) {
			if err := keys.Err(); err != nil {
				return nil, fmt.Errorf("listing the origins of copies: %w", err)
			}
			return incs, nil
		}
		inc := strings.TrimPrefix(keys.Val(), copiesKey)
		if len(inc) != uuidLength {
			continue
		}
		n, err := s.client.XLen(ctx, keys.Val()).Result()
		if err != nil {
			return nil, fmt.Errorf("looking for copies: %w", err)
		}
		if n > 0 {
			incs = append(incs, inc)
		}
	}
}

// lastCopy is the id of the newest batch of an origin's copies, or "" if there is none.
func (s *redisSource) lastCopy(ctx context.Context, origin string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	reply, err := s.client.Do(ctx, "XREVRANGE", copiesKey+origin, "+", "-", "COUNT", 1).Result()
	if err != nil {
		return "", fmt.Errorf("reading copies: %w", err)
	}
	batches, err := parseEntries(reply)
	if err != nil || len(batches) == 0 {
		return "", err
	}
	return batches[0].id, nil
}

// trimCopies removes the batches of an origin's copies up to an id, that one included.
func (s *redisSource) trimCopies(ctx context.Context, origin, upTo string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	at, err := parseID(upTo)
	if err != nil {
		return err
	}
	return s.client.XTrimMinID(ctx, copiesKey+origin, fmt.Sprintf("%d-%d", at.ms, at.seq+1)).Err()
}

// eachPeer visits every capture node that answers, except the one with the given incarnation. It returns the nodes
// that should be there and could not be read.
func (d *Drain) eachPeer(ctx context.Context, origin string, visit func(inc string, from source) error) (unread []string, err error) {
	expected, err := d.tally.Active(ctx)
	if err != nil {
		return nil, &storeError{"listing the capture nodes", err}
	}
	delete(expected, origin)
	for _, addr := range d.addresses() {
		if d.failedLately(addr) {
			continue
		}
		from := d.dial(addr)
		asking, cancel := context.WithTimeout(ctx, peerTimeout)
		inc, _, err := from.identify(asking)
		cancel()
		if err == nil && inc != origin {
			if err = visit(inc, from); err == nil {
				delete(expected, inc)
			}
		}
		_ = from.close() // nothing is left to fail
		if err != nil && ctx.Err() == nil {
			d.failed.Store(addr, time.Now())
			d.log.Info("copies could not be read", "address", addr, "error", err)
		}
	}
	return slices.Sorted(maps.Values(expected)), ctx.Err()
}

// failedLately keeps a dead node from delaying the streams of others at each attempt.
func (d *Drain) failedLately(addr string) bool {
	at, failed := d.failed.Load(addr)
	return failed && time.Since(at.(time.Time)) < peerPause
}

// readCopies gathers what all peers have of an origin's entries into a set.
func (d *Drain) readCopies(ctx context.Context, origin string, set *copySet) (unread []string, err error) {
	return d.eachPeer(ctx, origin, func(_ string, from source) error { return from.copies(ctx, origin, set) })
}

// copied returns the entries of a stream that were counted from copies and that it has not delivered.
func (d *Drain) copied(ctx context.Context, of store.Stream) (map[streamID]bool, error) {
	ids, err := d.tally.Copied(ctx, of)
	if err != nil {
		return nil, &storeError{"reading what was counted from copies", err}
	}
	known := make(map[streamID]bool, len(ids))
	for _, id := range ids {
		if at, err := parseID(id); err == nil {
			known[at] = true
		}
	}
	return known, nil
}

// compare finds the entries that the stream has lost since Sure, by their copies, and counts them. The stream is sure again
// when the copies of every node have been read. Too many for one time are compared in several.
func (d *drainer) compare(ctx, hard context.Context) error {
	now := time.Now()
	if now.Before(d.nextCompare) {
		return nil
	}
	if d.unsureSince.IsZero() {
		d.unsureSince = now
	}
	if d.compared == "" {
		d.compared = d.state.Sure
	}
	d.nextCompare = now.Add(max(compareEvery, now.Sub(d.unsureSince)/4)) // a node may be away for long
	known, err := d.copied(ctx, d.state)
	if err != nil {
		return err
	}
	set, err := d.newCopySet(d.compared, func(at streamID) bool { return known[at] || d.delivered[at] })
	if err != nil {
		return err
	}
	unread, err := d.readCopies(ctx, d.inc, set)
	if err != nil {
		return err
	}
	missing := set.votes
	for at := range known {
		missing[at] = entry{id: at.String(), at: at} // only to learn whether the origin holds it
	}
	if len(missing) > 0 {
		if err := d.strikeHeld(ctx, missing); err != nil {
			return err
		}
		if err := d.restore(hard, missing, known); err != nil {
			return err
		}
	}
	late := now.Sub(d.unsureSince) > d.cfg.Retention
	if set.full() && (len(unread) == 0 || late) {
		d.compared, d.nextCompare = set.upTo.String(), time.Time{}
		return nil
	}
	if len(unread) == 0 || late {
		d.unsure, d.unsureSince = false, time.Time{}
		clear(d.delivered)
	}
	after := d.state
	after.Unread = unread
	if !d.unsure {
		after.Sure, after.Unread = after.Pos, nil
	}
	return d.write(hard, after, store.NoGap)
}

// strikeHeld removes from missing what the stream holds.
func (d *drainer) strikeHeld(ctx context.Context, missing map[streamID]entry) error {
	first := slices.MinFunc(slices.Collect(maps.Keys(missing)), streamID.compare)
	for after := first.before(); ; {
		l, err := d.source.read(ctx, d.inc, after, d.cfg.BatchSize)
		if err != nil {
			return err
		}
		for _, e := range l.entries {
			delete(missing, e.at)
			after = e.id
		}
		if l.complete || len(l.entries) == 0 {
			return nil
		}
	}
}

// restore counts the missing entries that are not known, and notes of the known ones that the origin will not deliver them.
func (d *drainer) restore(hard context.Context, missing map[streamID]entry, known map[streamID]bool) error {
	vouched, _ := parseID(d.vouched)
	left := d.state.Unexplained(false)
	var gone, seen []string
	for at := range known {
		if missing[at].id == "" {
			continue
		}
		gone = append(gone, missing[at].id)
		if left > 0 && at.compare(vouched) <= 0 {
			seen = append(seen, missing[at].id)
			left--
		}
		delete(missing, at)
	}
	if len(gone) > 0 {
		if err := d.tally.Settle(hard, d.state, gone, seen); err != nil {
			return &storeError{"settling copies", err}
		}
		if err := d.reread(hard); err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	state, err := d.countCopies(hard, d.state, missing, d.vouched, false)
	d.state = state
	return err
}

// countCopies counts entries of an origin from their copies, in batches; it returns the account after them. An entry up to
// vouched is one that the account has in Added.
func (d *Drain) countCopies(hard context.Context, st store.Stream, entries map[streamID]entry, vouched string, early bool) (store.Stream, error) {
	known, _ := parseID(vouched)
	order := slices.SortedFunc(maps.Keys(entries), streamID.compare)
	left := st.Unexplained(early)
	for part := range slices.Chunk(order, d.cfg.BatchSize) {
		var valid []entry
		var copies []store.Copy
		explained := int64(0)
		for _, at := range part {
			e := entries[at]
			if _, why := decode(e, st.ID, d.cfg.Polls); why != "" {
				d.log.Error("a copy is no vote", "node", st.Node, "entry", e.id, "reason", why)
				continue
			}
			seen := at.compare(known) <= 0 && left > 0
			if seen {
				left--
				explained++
			}
			valid = append(valid, e)
			copies = append(copies, store.Copy{ID: e.id, Seen: seen, Early: early})
		}
		if len(copies) == 0 {
			continue
		}
		batch := fold(st.ID, d.cfg.Polls, valid, "")
		batch.Before, batch.After, batch.Copies = st, st.Account, copies
		if _, err := d.tally.Commit(hard, batch); err != nil {
			if errors.Is(err, store.ErrStale) {
				return st, err
			}
			return st, &storeError{"counting copies", err}
		}
		st.Revision++
		st.Recovered += int64(len(copies))
		if early {
			st.Early += explained
		} else {
			st.Restored += explained
		}
		d.metrics.recovered.Add(float64(len(copies)))
		d.log.Info("counted votes from copies", "node", st.Node, "incarnation", st.Inc, "votes", len(copies), "early", early)
	}
	return st, nil
}

// before is the greatest id below a.
func (a streamID) before() string {
	if a.seq == 0 {
		return fmt.Sprintf("%d-%d", max(a.ms, 1)-1, ^uint64(0))
	}
	return fmt.Sprintf("%d-%d", a.ms, a.seq-1)
}

// copyKeeper decides when the copies of one stream may go: a retention window after what they stand for was counted.
// A batch of copies that exists now stands for entries that exist already. So it may go once the stream has been
// counted up to an id that was read later.
type copyKeeper struct {
	marks []copyMark // ascending in time
}

type copyMark struct {
	last    map[string]string // of each peer's incarnation, the newest batch
	need    string            // count the stream up to here; empty until the next tick
	counted time.Time
}

// tick takes the newest batches of the peers and returns, by peer, up to which batch to trim.
func (k *copyKeeper) tick(now time.Time, last map[string]string, account store.Account, window time.Duration) (trim map[string]string) {
	for i := range k.marks {
		m := &k.marks[i]
		if m.counted.IsZero() && m.need != "" && compareIDs(account.Sure, m.need) >= 0 {
			m.counted = now
		}
		m.need = cmp.Or(m.need, account.LastID)
	}
	for len(k.marks) > 0 && !k.marks[0].counted.IsZero() && now.Sub(k.marks[0].counted) >= window {
		trim, k.marks = k.marks[0].last, k.marks[1:]
	}
	if len(last) > 0 && len(k.marks) < 4*trimsPerWindow {
		k.marks = append(k.marks, copyMark{last: last})
	}
	return trim
}

// keepCopies trims the copies of this stream on the other nodes.
func (d *drainer) keepCopies(ctx context.Context) error {
	last := map[string]string{}
	_, err := d.eachPeer(ctx, d.inc, func(inc string, from source) error {
		newest, err := from.lastCopy(ctx, d.inc)
		if err == nil && newest != "" {
			last[inc] = newest
		}
		return err
	})
	if err != nil {
		return err
	}
	trim := d.copyKeep.tick(time.Now(), last, d.state.Account, d.cfg.Retention)
	if len(trim) == 0 {
		return nil
	}
	_, err = d.eachPeer(ctx, d.inc, func(inc string, from source) error {
		if trim[inc] == "" {
			return nil
		}
		return from.trimCopies(ctx, d.inc, trim[inc])
	})
	return err
}
