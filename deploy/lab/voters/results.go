package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"waggle/deploy/lab/voters/books"
	"waggle/deploy/lab/voters/judge"
)

const (
	// resultsLimit bounds the answer of the results function: a thousand polls of a hundred options fit.
	resultsLimit = 32 << 20
	// resultsWait is how long the results may lag behind Postgres: they are cached for about a second.
	resultsWait  = 10 * time.Second
	resultsEvery = 250 * time.Millisecond
)

// shown is what the results function says: each choice's votes, how many entries its ledger has counted, and whether
// every vote is accounted for.
type shown struct {
	votes   map[judge.Slot]int64
	counted int64
	whole   bool
}

// readResults asks the results function for JSON. Polls that hide their votes are left out.
func readResults(ctx context.Context, address string) (shown, error) {
	ctx, cancel := context.WithTimeout(ctx, resultsWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return shown{}, fmt.Errorf("reading the results: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return shown{}, fmt.Errorf("reading the results: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return shown{}, fmt.Errorf("reading the results: %s answers %s", address, res.Status)
	}
	var content struct {
		Polls []struct {
			ID      int32
			Options []struct {
				ID    int16
				Votes *int64
			}
		}
		Ledger struct {
			Counted int64
			Whole   bool
		}
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, resultsLimit)).Decode(&content); err != nil {
		return shown{}, fmt.Errorf("reading the results: %w", err)
	}
	s := shown{votes: map[judge.Slot]int64{}, counted: content.Ledger.Counted, whole: content.Ledger.Whole}
	for _, p := range content.Polls {
		for _, o := range p.Options {
			if o.Votes != nil {
				s.votes[judge.Slot{Poll: p.ID, Choice: o.ID}] = *o.Votes
			}
		}
	}
	return s, nil
}

// resultsOf waits until the results are those of a snapshot with this ledger, and returns them. An error means that there is
// nothing to compare: they cannot be read, or show another moment, as they do while others vote. Results that call a ledger
// whole in which something is open are of an earlier moment, or wrong: they get the time to change.
func resultsOf(ctx context.Context, address string, ledger books.Ledger) (shown, error) {
	counted, open := ledger.Counted(), ledger.Open()
	ctx, cancel := context.WithTimeout(ctx, resultsWait)
	defer cancel()
	var last shown
	for {
		s, err := readResults(ctx, address)
		if same := err == nil && s.counted == counted; same {
			if last = s; !s.whole || open == 0 {
				return s, nil
			}
		}
		select {
		case <-time.After(resultsEvery):
		case <-ctx.Done():
			switch {
			case last.votes != nil:
				return last, nil
			case err == nil:
				err = fmt.Errorf("the results are of another moment: %d entries counted there, %d in Postgres", s.counted, counted)
			}
			return shown{}, err
		}
	}
}
