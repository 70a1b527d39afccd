package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"waggle/deploy/summary"
)

// summaryKey is the credential that signs summaries: it never leaves the state directory.
const summaryKey = "summary-key"

// newSummaryKey is summary.NewKey for the list of credentials. Making a key fails only where the machine has no randomness.
func newSummaryKey() string {
	key, err := summary.NewKey()
	if err != nil {
		panic(err)
	}
	return key
}

// Summary counts all votes again and prints the paper for an announcement, of the poll with this slug or of all ("").
// It keeps the paper, signed, in the state directory. It returns an error if anything does not agree.
func (s *System) Summary(ctx context.Context, poll string) error {
	key, err := s.state.read(summaryKey)
	if err != nil {
		return err
	}
	if key == "" {
		return failf("Run `make up`, which makes it.", "the key for summaries, %s, is not there", s.state.path(summaryKey))
	}
	recount, err := s.recount(ctx)
	if err != nil {
		return err
	}
	results, err := s.get(ctx, s.Target.Gateways[0]+"/function/results?format=json")
	if err != nil {
		return fmt.Errorf("reading the results: %w", err)
	}
	made, err := summary.Make(results, recount, poll, func(raw json.RawMessage) ([]string, error) {
		var reasons []Reason
		err := json.Unmarshal(raw, &reasons)
		return Ledger{Reasons: reasons}.sentences(recount.At), err
	})
	if err != nil {
		return err
	}
	file, err := summary.Sign(made, key)
	if err != nil {
		return err
	}
	public, err := summary.PublicKey(key)
	if err != nil {
		return err
	}
	name := filepath.Join("summaries", made.At.UTC().Format("20060102T150405.000Z")+".json")
	if err := os.MkdirAll(filepath.Dir(s.state.path(name)), 0o700); err != nil {
		return fmt.Errorf("making the folder of summaries: %w", err)
	}
	if err := writeSynced(s.state.path(name), string(file)); err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	made.Print(s.Out)
	fmt.Fprintf(s.Out, "Signed: %s\nPublic key: %s\n", s.state.path(name), public)
	if len(made.Faults) > 0 {
		return failf("Do not announce this result before somebody has found out why.", "%d fault(s) in the count", len(made.Faults))
	}
	return nil
}

// VerifySummary checks the signature of a file that Summary made, by a public key or, where that is "", by this system's
// own. Unless offline, it counts all votes again and says what has changed since in polls that were final.
func (s *System) VerifySummary(ctx context.Context, file, public string, offline bool) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading SUMMARY: %w", err)
	}
	if public == "" {
		private, err := s.state.read(summaryKey)
		if err != nil {
			return err
		}
		if private == "" {
			return failf("Give the public key: make verify SUMMARY=file KEY=key", "there is no key here to check the signature by")
		}
		if public, err = summary.PublicKey(private); err != nil {
			return err
		}
	}
	opened, err := summary.Open(text, public)
	if errors.Is(err, summary.ErrForged) {
		return failf("Trust nothing in it.", "%s: %w", file, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	opened.Print(s.Out)
	fmt.Fprintf(s.Out, "The signature is right.\n")
	if offline {
		return nil
	}
	recount, err := s.recount(ctx)
	if err != nil {
		return advise(err, "Without the running system: make verify SUMMARY=file OFFLINE=1")
	}
	changes := opened.Since(recount)
	for _, c := range changes {
		fmt.Fprintf(s.Out, "  - %s\n", c)
	}
	if len(changes) > 0 {
		return failf("The file tells what was; the votes are not that any more.", "%d difference(s) to a recount of now", len(changes))
	}
	fmt.Fprintf(s.Out, "A recount of now finds the same votes in every poll that was final.\n")
	return nil
}

// recount runs `worker recount` in the first worker that can be reached from here.
func (s *System) recount(ctx context.Context) (summary.Recount, error) {
	var found summary.Recount
	out, err := s.inWorker(ctx, "recount")
	if err == nil {
		err = json.Unmarshal([]byte(out), &found)
	}
	if err != nil {
		return found, fmt.Errorf("counting the votes again: %w", err)
	}
	return found, nil
}

// sentences are the reasons as sentences.
func (l Ledger) sentences(now time.Time) []string {
	all := []string{}
	for _, t := range l.troubles(now) {
		all = append(all, t.text)
	}
	return all
}
