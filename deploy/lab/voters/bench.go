package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"waggle/deploy/lab/voters/books"
	"waggle/deploy/lab/voters/judge"
)

// bench is where the judge sits: the way to the books, and what they said before the run.
type bench struct {
	source books.Source
	before books.Ledger
	votes  int64
}

// readTimeout bounds one reading of the books: tens of millions of rows take tens of seconds.
const readTimeout = 5 * time.Minute

// sit finds the keys and the books before anybody votes, so that a run that can't be judged does not begin.
func sit(ctx context.Context, c *config) (b bench, err error) {
	if c.crowd.Pseudonym, err = readKeys(c.keys, c.poll); err != nil {
		return bench{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if b.source = books.Command(c.psql); c.psql == "" {
		if b.source, err = books.Find(ctx, c.service, c.engines); err != nil {
			return bench{}, err
		}
	}
	b.before, b.votes, err = books.ReadLedger(ctx, b.source, c.poll)
	return b, err
}

func (b bench) judge(ctx context.Context, c config, r report, voters []judge.Voter, stderr io.Writer) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, c.drainTimeout+2*readTimeout)
	defer cancel()
	began := time.Now()
	behind := settle(ctx, c, b.source, stderr)
	r.DrainSeconds = time.Since(began).Seconds()
	for _, why := range behind {
		r.Unjudged = append(r.Unjudged, "the drain is not complete: "+why)
	}
	after, err := books.Read(ctx, b.source, c.poll)
	if err != nil {
		return report{}, err
	}
	var public shown
	if c.results != "" {
		if public, err = resultsOf(ctx, c.results, after.Ledger); err != nil {
			r.Unjudged = append(r.Unjudged, err.Error())
		}
	}
	growth := after.Ledger.Since(b.before)
	verdict := judge.Judge(c.rules, voters, judge.Books{
		Rows: after.Rows, Counts: after.Counts, Tally: after.Tally, Shown: public.votes, StrangersBefore: b.votes,
		Captured: growth.Added, LostEntries: growth.Lost, Recovered: growth.Recovered, Single: growth.Single, Gaps: growth.Gaps,
		Open: after.Ledger.Open(), Whole: public.whole,
	})
	r.Ledger, r.Verdict = &growth, &verdict
	r.Clean = verdict.Clean() && len(r.Unjudged) == 0
	return r, nil
}

// settle waits for the drain, with a line whenever the reason changes.
func settle(ctx context.Context, c config, source books.Source, stderr io.Writer) []string {
	ctx, cancel := context.WithTimeout(ctx, c.drainTimeout)
	defer cancel()
	last := ""
	return books.Settle(ctx, source, c.poll, c.drainEvery, func(behind []string) {
		if line := strings.Join(behind, "; "); line != last {
			last = line
			fmt.Fprintf(stderr, "draining: %s\n", line)
		}
	})
}
