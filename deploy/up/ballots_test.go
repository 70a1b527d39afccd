package up

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNodesWithoutABallotAreNamed: of the nodes that are to capture votes, a has one, one starts on c, and b has none.
func TestNodesWithoutABallotAreNamed(t *testing.T) {
	dir := t.TempDir()
	nodes := line("a", "manager", "ready", captureLabel) + "\n" + line("b", "worker", "ready", captureLabel) + "\n" + line("c", "worker", "ready", captureLabel) + "\n" +
		line("d", "worker", "ready", captureLabel, drainingLabel) + "\n" + line("l", "worker", "down", captureLabel) + "\n" + line("w", "worker", "ready")
	script := `#!/bin/sh
cd "$(dirname "$0")"
case "$*" in
'node ls '*) echo ids;;
'node inspect '*) cat nodes;;
'node ps '*id-a) echo vote.1 Running 2 minutes ago;;
'node ps '*id-c) echo vote.3 Starting 3 seconds ago;;
'node ps '*id-b) ;;
*) echo "no answer for $*" >&2; exit 1;;
esac
`
	for name, text := range map[string]string{"docker": script, "nodes": nodes} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s := newTestSystem(t, nil)
	if without, err := s.withoutBallot(t.Context()); err != nil || strings.Join(without, ",") != "b" {
		t.Fatalf("without a ballot are %q, %v; want b alone", without, err)
	}
}
