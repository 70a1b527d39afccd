package results

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// siblings are the other replicas of this function, behind one name that resolves to all of them. A replica that has
// never reached Postgres asks them for their last count: it is what everybody may see, so nothing hidden is in it.
type siblings struct {
	address string // http://name:port/
	polls   []poll
}

const (
	siblingTimeout = time.Second
	maxSiblings    = 10
	maxSiblingBody = 32 << 20
)

// count returns the newest count that a sibling knows, or nil.
func (s siblings) count(ctx context.Context) *count {
	ctx, cancel := context.WithTimeout(ctx, 2*siblingTimeout)
	defer cancel()
	u, err := url.Parse(s.address)
	if err != nil {
		return nil
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		return nil // alone, or not in that network
	}
	var newest *count
	for _, address := range addresses[:min(len(addresses), maxSiblings)] {
		u.Host = net.JoinHostPort(address, u.Port())
		c, err := s.ask(ctx, u.String())
		if err == nil && (newest == nil || c.asOf.After(newest.asOf)) {
			newest = c
		}
	}
	return newest
}

// ask reads one sibling's answer. This replica itself is among those asked; it knows nothing and says so.
func (s siblings) ask(ctx context.Context, address string) (*count, error) {
	ctx, cancel := context.WithTimeout(ctx, siblingTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("asking a sibling: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking a sibling: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking a sibling: it answers %s", answer.Status)
	}
	var told report
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxSiblingBody)).Decode(&told); err != nil {
		return nil, fmt.Errorf("reading a sibling's count: %w", err)
	}
	return told.count(s.polls), nil
}

// count is the count that a report was made from, as far as it tells.
func (r report) count(polls []poll) *count {
	c := &count{asOf: r.Ledger.AsOf, streams: r.Ledger.Streams, gaps: r.Ledger.Gaps, checks: r.Ledger.Checks, votes: map[choice]int64{},
		entries: map[int32][]nodeEntries{}, turnout: map[int32][]minuteVoters{}, unknown: map[int32]bool{}}
	for i := range polls {
		c.unknown[polls[i].ID] = true
	}
	for _, p := range r.Polls {
		if p.Hidden {
			continue
		}
		delete(c.unknown, p.ID)
		for _, o := range p.Options {
			if o.Votes != nil {
				c.votes[choice{p.ID, o.ID}] = *o.Votes
			}
		}
		c.entries[p.ID], c.turnout[p.ID] = p.Entries, p.Turnout
	}
	return c
}
