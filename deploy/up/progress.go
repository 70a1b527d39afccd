package up

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Failure is an error a person can act on: what went wrong, and what to do about it.
type Failure struct {
	Cause  error
	Advice string
}

// Error is one line: cause, then advice.
func (f *Failure) Error() string {
	return strings.TrimSuffix(oneLine(f.Cause.Error()), ".") + ". " + f.Advice
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// advise joins a cause with what to do about it; a cause that has its advice already keeps it.
func advise(cause error, advice string) error {
	if known := (*Failure)(nil); cause == nil || errors.As(cause, &known) {
		return cause
	}
	return &Failure{Cause: cause, Advice: advice}
}

// failf makes a Failure from advice and a formatted cause.
func failf(advice, format string, args ...any) error {
	return &Failure{Cause: fmt.Errorf(format, args...), Advice: advice}
}

// Progress prints one line per step: its name, how long it took and what it found or did.
type Progress struct {
	out     io.Writer
	started time.Time
}

// NewProgress starts the clock of the whole run.
func NewProgress(out io.Writer) *Progress {
	return &Progress{out: out, started: time.Now()}
}

// Step runs do and prints its line; do returns the words that go on the line. The error comes back with the step's name.
func (p *Progress) Step(name string, do func() (detail string, err error)) error {
	began := time.Now()
	detail, err := do()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(p.out, "%-10s %6.1f s  %s\n", name, time.Since(began).Seconds(), oneLine(detail))
	return nil
}

// Note prints an indented line below the step that is running, for waits that a person would otherwise wonder about.
func (p *Progress) Note(line string) {
	fmt.Fprintf(p.out, "%-10s %8s  %s\n", "", "", oneLine(line))
}

// Total is the time since the run began.
func (p *Progress) Total() time.Duration { return time.Since(p.started) }

// oneLine folds white space, so that a line of progress and an error stay one line each.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
