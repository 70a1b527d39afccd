//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// testResults follows a vote to its look-up, watches the page's stream through the gateway, and has the count signed.
func (s *system) testResults(t *testing.T) {
	voter := s.newVoter(t)
	voter.do(http.MethodGet, "", nil, "application/json")
	receipt := voter.postJSON("cats")
	testbed.Eventually(t, 10*time.Second, func() error { return s.receiptIs(receipt, "counted") })
	voter.postJSON("dogs")
	testbed.Eventually(t, 10*time.Second, func() error { return s.receiptIs(receipt, "replaced") })

	stream, err := http.Get(s.Gateway + "/function/results?format=events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	lines := bufio.NewScanner(stream.Body)
	for event := 1; event <= 2; event++ {
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: {") {
			continue
		}
		if lines.Err() != nil || lines.Text() == "" {
			t.Fatalf("the stream ended before event %d: %v", event, lines.Err())
		}
	}

	var out bytes.Buffer
	old := s.Out
	defer func() { s.Out = old }()
	s.Out = io.MultiWriter(&out, old)
	if err := s.Summary(t.Context(), ""); err != nil {
		t.Fatalf("make summary: %v", err)
	}
	if paper := out.String(); !strings.Contains(paper, "NOT FINAL") || !strings.Contains(paper, "rows, tally and accounts agree") {
		t.Errorf("make summary prints:\n%s", paper)
	}
	files, err := filepath.Glob(filepath.Join(s.StateDir, "summaries", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("summaries kept: %q, %v", files, err)
	}
	if err := s.VerifySummary(t.Context(), files[0], "", false); err != nil {
		t.Errorf("make verify: %v", err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(text), `"final": false`, `"final": true`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.VerifySummary(t.Context(), files[0], "", true); err == nil || !strings.Contains(err.Error(), "signature does not fit") {
		t.Errorf("make verify of an edited paper: %v", err)
	}
}

// receiptIs asks the results what became of a receipt's vote.
func (s *system) receiptIs(receipt, want string) error {
	answer, err := http.Get(s.Gateway + "/function/results?format=json&receipt=" + url.QueryEscape(receipt))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var found struct{ State string }
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil {
		return fmt.Errorf("receipt %s: %s: %w", receipt, answer.Status, err)
	}
	if found.State != want {
		return fmt.Errorf("receipt %s: %s, state %q; want %s", receipt, answer.Status, found.State, want)
	}
	return nil
}
