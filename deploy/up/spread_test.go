package up

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Swarm starts further replicas where there are fewest: here on b as soon as there are four. The one on c is about to run.
func TestTheBallotReturnsToANodeThatWasAway(t *testing.T) {
	dir := t.TempDir()
	nodes := line("a", "manager", "ready", captureLabel) + "\n" + line("b", "worker", "ready", captureLabel) + "\n" + line("c", "worker", "ready", captureLabel) + "\n" +
		line("d", "worker", "ready", captureLabel, drainingLabel) + "\n" + line("l", "worker", "down", captureLabel) + "\n" + line("w", "worker", "ready")
	script := `#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >> calls
case "$*" in
'node ls '*) echo ids;;
'node inspect '*) cat nodes;;
'service inspect '*) echo 3;;
'service scale --detach vote=4') touch spread;;
'service scale --detach vote=3') ;;
'node ps '*id-a) echo vote.1 Running 2 minutes ago;;
'node ps '*id-c) if [ -e spread ]; then echo vote.3 Running 1 second ago; else echo vote.3 Starting 3 seconds ago; fi;;
'node ps '*id-b) [ ! -e spread ] || echo vote.4 Running 1 second ago;;
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
	if without, err := s.withoutBallot(t.Context(), runningSoon); err != nil || strings.Join(without, ",") != "b" {
		t.Fatalf("without a ballot are %q, %v; want b alone", without, err)
	}
	for range 2 { // the second time there is nothing to do
		if err := s.spreadBallot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	said, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(said), "service scale"); got != 2 {
		t.Errorf("scaled %d times, want up and down once:\n%s", got, said)
	}
}
