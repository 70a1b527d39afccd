package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"waggle/deploy/lab/voters/judge"
)

const (
	// resultsLimit bounds the answer of the results function: a thousand polls of a hundred options fit.
	resultsLimit = 32 << 20
	// resultsWait is how long the results may lag behind Postgres: they are cached for about a second.
	resultsWait  = 10 * time.Second
	resultsEvery = 250 * time.Millisecond
)

// shown is what the results function says: the votes of each choice, and the entries that its ledger has counted.
type shown struct {
	votes   map[judge.Slot]int64
	counted int64
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
		Ledger struct{ Counted int64 }
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, resultsLimit)).Decode(&content); err != nil {
		return shown{}, fmt.Errorf("reading the results: %w", err)
	}
	s := shown{votes: map[judge.Slot]int64{}, counted: content.Ledger.Counted}
	for _, p := range content.Polls {
		for _, o := range p.Options {
			if o.Votes != nil {
				s.votes[judge.Slot{Poll: p.ID, Choice: o.ID}] = *o.Votes
			}
		}
	}
	return s, nil
}

// resultsOf waits until the results are those of a snapshot in which so many entries were counted, and returns them. An
// error means that there is nothing to compare: they cannot be read, or show another moment, as they do while others vote.
func resultsOf(ctx context.Context, address string, counted int64) (map[judge.Slot]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, resultsWait)
	defer cancel()
	for {
		s, err := readResults(ctx, address)
		if err == nil && s.counted == counted {
			return s.votes, nil
		}
		select {
		case <-time.After(resultsEvery):
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("the results are of another moment: %d entries counted there, %d in Postgres", s.counted, counted)
			}
			return nil, err
		}
	}
}
