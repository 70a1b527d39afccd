// Package liveness is a container's health check: it tells a process that hangs from one that is slow.
//
// The engine starts the check inside the container, and replaces the container when the check has failed RETRIES times
// in a row. In: one way to ask the part for an answer, and the states of the container's processes in /proc. Out: nil
// or the reason to fail. The package uses the standard library only: functions, provider, worker and the images of
// Redis and Postgres all run this one check.
//
// An answer is health. Without one, the check looks at the processes every 200 ms. A process that owes an answer and is
// merely slow runs, waits for a processor or waits for a device nearly all of the time. A process that hangs sleeps,
// whatever its timers and its garbage collector do now and then. Hence the border: at work in half of the looks.
//
//	                                before the first answer   later             after a failed check
//	looks without an answer          20 (4 s)                  110 (22 s)        5 (1 s)
//	an answer                        pass at once              go on, then pass  pass at once
//	none, at work in half the looks  go on, then fail          go on, then pass  pass at once
//	none, at work in fewer           fail                      fail              fail
//
// "Go on" ends after 5 minutes: each check costs the engine a process, about 50 ms of CPU. The interval between two
// must still be short, since Swarm calls a task running only after its first good check. With 5 RETRIES, 1 s apart:
//
//   - A share of 2 % of a processor: threads are runnable and wait, which is work. A slow disk: state D, which is work.
//   - A deadlock: threads sleep, background work takes less than half of the time: given up after 30 to 35 s.
//   - SIGSTOP: state T, which is no work: the same. Stops of 20 s, again and again, fail no check.
//   - A check that is itself starved of a processor: it takes its looks later. It counts looks, and never the clock.
//   - An engine that is too slow to start a check, or loses it: one failed check of five in a row.
//
// What it cannot tell: a process that answers nothing and burns a processor for ever looks like one that is overloaded.
package liveness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	lookEvery = 200 * time.Millisecond
	// askEvery is the pause between an answer and the next question.
	askEvery = 2 * time.Second
	// askTimeout only frees what a lost connection holds: an answer that comes late is still an answer.
	askTimeout = time.Minute
	// lingerFor stays far below the HEALTHCHECK's own timeout of 10 minutes, so that a starved check can still pass.
	lingerFor = 5 * time.Minute
)

// looks is how many looks without an answer it takes to judge; see the table above.
var looks = map[past]int{silent: 20, answered: 110, failed: 5}

// Ask asks the part once. It returns nil for an answer, and an error for a refusal or when ctx ends.
type Ask func(ctx context.Context) error

// Run is one health check of the container it runs in. An error is the reason to fail; nil passes.
func Run(ctx context.Context, ask Ask) error {
	return check{ask: ask, atWork: processesAtWork, memory: markerFile("/dev/shm/liveness")}.run(ctx)
}

// past is what earlier checks of this container found.
type past string

const (
	silent   past = ""         // no answer yet
	answered past = "answered" // an answer, and no failure since
	failed   past = "failed"   // an answer once, and then a failure
)

// memory keeps the past from one check to the next.
type memory interface {
	load() past
	store(past)
}

type check struct {
	ask    Ask
	atWork func() bool
	memory memory
}

// run keeps one question open at a time, and looks at the processes while there is no answer to it.
func (c check) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before, end := c.memory.load(), time.Now().Add(lingerFor)
	answers := make(chan error, 1)
	ask := func() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		answers <- c.ask(ctx)
	}
	go ask()
	open, seen := true, sight{wanted: looks[before]}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case refusal := <-answers:
			open = false
			if refusal != nil {
				seen.refusal = refusal
				continue // the next look asks again
			}
			if before != answered {
				c.memory.store(answered)
				return nil
			}
			if !time.Now().Before(end) {
				return nil
			}
			pause(ctx, askEvery)
			tick.Reset(lookEvery)
			seen.reset()
		case <-tick.C:
			seen.add(c.atWork())
			if seen.looks < seen.wanted {
				break
			}
			if done, err := c.judge(before, seen, !time.Now().Before(end)); done {
				return err
			}
			seen.reset()
		}
		if !open {
			open = true
			go ask()
		}
	}
	return nil // the engine has given this check up, and the next one judges
}

// sight is what was seen since the last answer or judgement.
type sight struct {
	wanted, looks, busy int
	refusal             error // nil: nothing came at all
}

func (s *sight) add(atWork bool) {
	s.looks++
	if atWork {
		s.busy++
	}
}

func (s *sight) reset() { s.looks, s.busy, s.refusal = 0, 0, nil }

func (s *sight) atWork() bool { return 2*s.busy >= s.looks }

func (s *sight) reason() error { return cmp.Or(s.refusal, errors.New("no answer")) }

// judge decides after a full set of looks without an answer; done is false when the check goes on.
func (c check) judge(before past, seen sight, late bool) (done bool, reason error) {
	switch {
	case !seen.atWork():
		if before != silent {
			c.memory.store(failed)
		}
		return true, fmt.Errorf("hung: %w; the container was at work in %d of %d looks", seen.reason(), seen.busy, seen.looks)
	case before == failed:
		c.memory.store(answered)
		return true, nil
	case !late:
		return false, nil
	case before == silent:
		return true, fmt.Errorf("at work for %s, and still no first answer: %w", lingerFor, seen.reason())
	default:
		return true, nil
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
