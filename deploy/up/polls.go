package up

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waggle/functions/pollfile"
)

// appliedPolls is the name in the state directory of the poll file that the system runs with.
const appliedPolls = "applied-polls.json"

// readPolls reads and checks the poll file before anything is changed. A part of the system that started with a wrong
// one would stop again, and an edit may give votes another meaning.
func (s *System) readPolls() (string, error) {
	polls, changes, err := s.checkPolls()
	if err != nil {
		return "", err
	}
	for _, c := range changes {
		if c.Falsifies != "" {
			return "", failf("Run make polls to see all changes; nothing was changed.", "poll %s: %s: %s", c.Poll, c.What, c.Falsifies)
		}
	}
	slugs := make([]string, len(polls))
	for i := range polls {
		slugs[i] = polls[i].Slug
	}
	return strings.Join(slugs, ", "), nil
}

// checkPolls reads the poll file and compares it with the one that the system runs with, if any.
func (s *System) checkPolls() ([]pollfile.Poll, []pollfile.Change, error) {
	path := filepath.Join(s.Root, "functions", "polls.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the polls: %w", err)
	}
	polls, err := pollfile.Parse(text)
	if err != nil {
		return nil, nil, advise(fmt.Errorf("%s: %w", path, err), "Mend the poll file; nothing was changed.")
	}
	s.polls = text
	if err := s.checkFiles(polls); err != nil {
		return nil, nil, err
	}
	applied, err := s.state.read(appliedPolls)
	if err != nil || applied == "" {
		return polls, nil, err
	}
	running, err := pollfile.Parse([]byte(applied))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the polls that the system runs with, %s: %w", s.state.path(appliedPolls), err)
	}
	return polls, pollfile.Compare(running, polls, time.Now()), nil
}

// checkFiles looks for what polls need beside the poll file: the function vote would not start without.
func (s *System) checkFiles(polls []pollfile.Poll) error {
	need := func(poll, advice string, path ...string) error {
		file := filepath.Join(append([]string{s.Root, "functions", "vote"}, path...)...)
		if _, err := os.Stat(file); err != nil {
			return advise(fmt.Errorf("poll %s needs %s: %w", poll, file, err), advice)
		}
		return nil
	}
	for i := range polls {
		p := &polls[i]
		if p.Mode == "once" {
			if err := need(p.Slug, "Make its ballot codes: make codes POLL="+p.Slug+" COUNT=1000.", "codes", p.Slug+".codes"); err != nil {
				return err
			}
		}
		for _, o := range p.Options {
			if o.Image != "" {
				if err := need(p.Slug, "Put the image there.", "images", o.Image); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Polls checks the poll file strictly and prints what `make up` would change. It returns an error for a change that must
// not be made. Nothing is changed.
func (s *System) Polls(context.Context) error {
	polls, changes, err := s.checkPolls()
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range polls {
		p := &polls[i]
		fmt.Fprintf(s.Out, "poll %s: %d options, mode %s, results %s, %s to %s\n", p.Slug, len(p.Options), p.Mode, p.Results,
			p.Opens.Format(time.RFC3339), p.Closes.Format(time.RFC3339))
		if p.Closes.Before(now) {
			fmt.Fprintf(s.Out, "  it has closed\n")
		}
	}
	refused := 0
	for _, c := range changes {
		fmt.Fprintf(s.Out, "change of %s: %s\n", c.Poll, c.What)
		if c.Falsifies != "" {
			refused++
			fmt.Fprintf(s.Out, "  refused: %s\n", c.Falsifies)
		}
	}
	if refused > 0 {
		return fmt.Errorf("%d change(s) would falsify a poll", refused)
	}
	if len(changes) == 0 {
		fmt.Fprintln(s.Out, "no change to the running system's polls")
	}
	fmt.Fprintln(s.Out, "The poll file is valid. See its pages with make preview, publish it with make up.")
	return nil
}
