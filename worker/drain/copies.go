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
//   - If the origin answers, a copy whose id it does not hold was lost. It is compared when a connection to it is new, for
//     then its log may have been cut, and before its entries are trimmed (drainer.compare).
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
	// maxCopies bounds what is held in memory at once: some 250 MB.
	maxCopies = 1_000_000
	// compareEvery is the pause between two attempts to compare a stream with copies that could not all be read.
	compareEvery = 2 * time.Second
	// peerTimeout is how long another node may take to say who it is; peerPause is how long it is left alone if it does not.
	peerTimeout = time.Second
	peerPause   = 15 * time.Second
)

var errTooManyCopies = fmt.Errorf("more than %d votes have to be compared at once", maxCopies)

// copies reads the copies of an origin's entries after an id, newest batch first, into found. Repeated ones are the same.
func (s *redisSource) copies(ctx context.Context, origin, after string, found map[streamID]entry) error {
	from, err := parseID(after)
	if err != nil {
		return err
	}
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
		for _, batch := range batches {
			newest, err := parseCopies(batch, from, found)
			if err != nil {
				return err
			}
			if newest.ms+maxDisorder < from.ms {
				return nil
			}
			if len(found) > maxCopies {
				return errTooManyCopies
			}
		}
		if len(batches) < copyPage {
			return nil
		}
		upTo = "(" + batches[len(batches)-1].id
	}
}

// parseCopies adds the votes of a batch after an id to found, and returns the newest id in it.
func parseCopies(batch entry, after streamID, found map[streamID]entry) (newest streamID, err error) {
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
		if at.compare(after) > 0 {
			found[at] = entry{id: f[0], at: at, fields: []string{"p", f[1], "v", f[2], "c", f[3], "s", f[4], "t", f[5]}}
		}
	}
	return newest, nil
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

// readCopies gathers what all peers have of an origin's entries after an id.
func (d *Drain) readCopies(ctx context.Context, origin, after string) (found map[streamID]entry, unread []string, err error) {
	found = map[streamID]entry{}
	unread, err = d.eachPeer(ctx, origin, func(_ string, from source) error { return from.copies(ctx, origin, after, found) })
	return found, unread, err
}

// compare finds the entries that the stream has lost since Sure, by their copies, and counts them. The stream is sure again
// when the copies of every node have been read.
func (d *drainer) compare(ctx, hard context.Context) error {
	if time.Now().Before(d.nextCompare) {
		return nil
	}
	d.nextCompare = time.Now().Add(compareEvery)
	if d.unsureSince.IsZero() {
		d.unsureSince = time.Now()
	}
	missing, unread, err := d.readCopies(ctx, d.inc, d.state.Sure)
	if err != nil {
		return err
	}
	known, err := d.tally.Copied(ctx, d.state)
	if err != nil {
		return &storeError{"reading what was counted from copies", err}
	}
	for _, id := range known {
		if at, err := parseID(id); err == nil && missing[at].id == "" {
			missing[at] = entry{id: id, at: at} // only to learn whether the origin holds it
		}
	}
	if len(missing) > 0 {
		if err := d.strikeHeld(ctx, missing); err != nil {
			return err
		}
		if err := d.restore(hard, missing, known); err != nil {
			return err
		}
	}
	if len(unread) == 0 || time.Since(d.unsureSince) > d.cfg.Retention {
		d.unsure, d.unsureSince = false, time.Time{}
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
func (d *drainer) restore(hard context.Context, missing map[streamID]entry, known []string) error {
	var gone []string
	for _, id := range known {
		if at, err := parseID(id); err == nil && missing[at].id != "" {
			gone = append(gone, id)
			delete(missing, at)
		}
	}
	if len(gone) > 0 {
		if err := d.tally.Settle(hard, d.state, gone); err != nil {
			return &storeError{"settling copies", err}
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
		for _, at := range part {
			e := entries[at]
			if _, why := decode(e, st.ID, d.cfg.Polls); why != "" {
				d.log.Error("a copy is no vote", "node", st.Node, "entry", e.id, "reason", why)
				continue
			}
			seen := at.compare(known) <= 0 && left > 0
			if seen {
				left--
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
	trim := map[string]string{}
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
	if trim = d.copyKeep.tick(time.Now(), last, d.state.Account, d.cfg.Retention); len(trim) == 0 {
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
