package crowd

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"waggle/deploy/lab/voters/judge"
)

// The back-off before a repeat starts at about backoffFirst, doubles each time, and never exceeds backoffMost.
// Half of it is jitter: voters who failed together must not return together. A server's Retry-After is obeyed
// up to the same bound.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// place serves one voter at a time. Its second client is for voters with two tabs.
type place struct {
	crowd  *Crowd
	client *client
	other  *client
}

func (p *place) close() {
	p.client.close()
	if p.other != nil {
		p.other.close()
	}
}

// visit is one voter's whole stay.
func (p *place) visit(ctx context.Context, turn arrival, plan plan) error {
	v := &visitor{
		place: p, plan: plan, due: turn.due, record: &p.crowd.voters[turn.voter],
	}
	first, err := v.open(ctx)
	if err != nil || first == nil {
		return err
	}
	a, b := plan.choose(len(p.crowd.config.Options))
	switch plan.habit {
	case Tabs:
		v.pressBoth(ctx, first, a, b)
		return nil
	case Replay: // A reloaded page sends its form with the new cookie; what Stale sends is old in both.
		v.press(ctx, p.client, first, a)
		again, err := first.with(v.cookies)
		if err != nil {
			return err
		}
		v.press(ctx, p.client, again, a)
		return nil
	case Once:
		v.press(ctx, p.client, first, a)
		return nil
	case Elsewhere:
		return v.pressElsewhere(ctx, first, a, b)
	}
	if plan.habit == Double {
		b = a
	}
	v.press(ctx, p.client, first, a)
	second, err := v.open(ctx)
	if err != nil || second == nil {
		return err
	}
	v.press(ctx, p.client, second, b)
	if plan.habit == Stale {
		v.press(ctx, p.client, first, a)
	}
	return nil
}

// visitor is a voter being served. Its mutex guards cookies, acked and record, which two tabs share.
type visitor struct {
	place *place
	plan  plan
	due   time.Time

	mu      sync.Mutex
	cookies jar
	acked   bool
	record  *judge.Voter
}

// open gets the ballot; nil means that the voter was turned away. An error means that voters cannot be told apart.
func (v *visitor) open(ctx context.Context) (*ballot, error) {
	c, stats := v.place.crowd, v.place.crowd.stats
	for try := 0; ; try++ {
		target := v.target()
		began := time.Now()
		got, err := v.place.client.do(target, request{
			path: c.paths[target], accept: accept(v.plan.api), cookies: &v.cookies,
		})
		stats.Pages.Add(1)
		if err == nil && got.status == 200 {
			stats.Page.Add(time.Since(began))
			v.cookies.take(got.header)
			paper, err := readBallot(v.plan.api, c.config.Poll, got.body, v.cookies)
			if err == nil {
				return paper, v.identify(paper)
			}
			c.config.Log.Debug("ballot not understood", "error", err)
			stats.faults[faultOdd].Add(1)
		} else {
			v.blame(got, err)
		}
		if try >= c.config.Retries || !v.wait(ctx, try, got) {
			stats.TurnedAway.Add(1)
			return nil, nil
		}
	}
}

// identify notes who the voter is. The first identity stays. A vote cast under another one later is then
// somebody else's, and the judge finds the voter's own vote missing, as the voter does.
func (v *visitor) identify(paper *ballot) error {
	name, err := v.place.crowd.config.Pseudonym(paper.voter)
	if err != nil {
		return err
	}
	if v.record.Pseudonym == (judge.Pseudonym{}) {
		v.record.Pseudonym = name
	}
	return nil
}

// press fills in the ballot and sends it, again and again if the voter is patient, until the answer is usable.
func (v *visitor) press(ctx context.Context, client *client, paper *ballot, option int) {
	for try := 0; ; try++ {
		outcome, got, err := v.send(client, paper, option, v.target())
		if outcome == judge.Acked {
			return
		}
		final := outcome == judge.Refused && err == nil
		if final || !v.plan.patient || try >= v.place.crowd.config.Retries || !v.wait(ctx, try, got) {
			return
		}
	}
}

// send sends the filled-in ballot once, and records what came of it.
func (v *visitor) send(client *client, paper *ballot, option, target int) (judge.Outcome, answer, error) {
	c, stats := v.place.crowd, v.place.crowd.stats
	contentType, body := paper.fill(v.plan.api, c.config.Poll, c.config.Options[option].Slug)
	began := time.Now()
	got, err := client.do(target, request{
		path: c.paths[target], accept: accept(v.plan.api), contentType: contentType, body: body,
		cookies: &paper.cookies,
	})
	stats.Posts.Add(1)
	outcome := judge.Unknown
	if errors.Is(err, errUnsent) {
		outcome = judge.Refused
	} else if err == nil {
		outcome = outcomeOf(v.plan.api, got)
		stats.posted(time.Since(began))
	}
	v.note(paper, option, outcome, got)
	if outcome != judge.Acked {
		v.blame(got, err)
	}
	return outcome, got, err
}

// pressElsewhere presses once; without an answer it gives that press up and presses another choice, patiently.
func (v *visitor) pressElsewhere(ctx context.Context, paper *ballot, a, b int) error {
	p := v.place
	v.plan.patient = true
	switch outcome, _, err := v.send(p.client, paper, a, v.target()); {
	case outcome == judge.Acked, outcome == judge.Refused && err == nil:
		return nil
	case outcome == judge.Refused: // nothing was sent
		v.press(ctx, p.client, paper, a)
		return nil
	}
	if a == b {
		return nil
	}
	v.record.GiveUp(paper.seq, p.crowd.config.Options[a].ID)
	if v.plan.dice.IntN(2) == 0 {
		var err error
		if paper, err = v.open(ctx); err != nil || paper == nil {
			return err
		}
	}
	v.press(ctx, p.client, paper, b)
	return nil
}

// note records an answer, and follows its cookies if the vote was taken.
func (v *visitor) note(paper *ballot, option int, outcome judge.Outcome, got answer) {
	stats := v.place.crowd.stats
	v.mu.Lock()
	defer v.mu.Unlock()
	v.record.Record(paper.seq, v.place.crowd.config.Options[option].ID, outcome)
	switch outcome {
	case judge.Refused:
		stats.Refused.Add(1)
	case judge.Unknown:
		stats.Unknown.Add(1)
	case judge.Acked:
		stats.Acked.Add(1)
		v.cookies.take(got.header)
		if !v.acked {
			v.acked = true
			stats.Ack.Add(time.Since(v.due))
		}
	}
}

// pressBoth presses in two tabs at the same moment. They bear the same sequence: either may win.
func (v *visitor) pressBoth(ctx context.Context, paper *ballot, a, b int) {
	p := v.place
	if p.other == nil {
		p.other = newClient(p.crowd.config.Targets, p.crowd.config.Timeout)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.press(ctx, p.other, paper, b)
	}()
	v.press(ctx, p.client, paper, a)
	<-done
}

// target takes any address: with several, a voter's requests go to several gateways.
func (v *visitor) target() int {
	n := len(v.place.crowd.config.Targets)
	if n == 1 {
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.plan.dice.IntN(n)
}

// wait is the pause before repeat number try+1; false means that there is to be none.
func (v *visitor) wait(ctx context.Context, try int, got answer) bool {
	pause := min(backoffFirst<<min(try, 10), backoffMost)
	v.mu.Lock()
	pause = pause/2 + time.Duration(v.plan.dice.Int64N(int64(pause)/2))
	v.mu.Unlock()
	if seconds, err := strconv.Atoi(got.header.Get("Retry-After")); err == nil && seconds > 0 {
		pause = max(pause, min(time.Duration(min(seconds, 60))*time.Second, backoffMost))
	}
	alarm := time.NewTimer(pause)
	defer alarm.Stop()
	select {
	case <-alarm.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// blame counts what a voter should not have seen.
func (v *visitor) blame(got answer, err error) {
	stats := v.place.crowd.stats
	var timeout net.Error
	switch {
	case err == nil:
		stats.status(got.status)
	case errors.Is(err, errUnsent):
		stats.faults[faultUnsent].Add(1)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		stats.faults[faultTimeout].Add(1)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, new(*net.OpError)):
		stats.faults[faultCut].Add(1)
	default:
		stats.faults[faultOdd].Add(1)
	}
}
