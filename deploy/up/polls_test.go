package up

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAWrongPollFileStopsUpBeforeAnythingIsChanged(t *testing.T) {
	t.Parallel()
	s := newTestSystem(t, nil)
	if err := os.Mkdir(filepath.Join(s.Root, "functions"), 0o755); err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../functions/polls.json")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Root, "functions", "polls.json")
	if err := os.WriteFile(path, []byte(strings.Replace(string(shipped), `"mode"`, `"moed"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	// Up would look for Docker next, and this test gives it none.
	if err := s.Up(t.Context()); err == nil || !strings.Contains(err.Error(), `unknown field "moed"`) || !strings.Contains(err.Error(), path) {
		t.Errorf("up with a wrong poll file: %v", err)
	}
	if err := os.WriteFile(path, shipped, 0o644); err != nil {
		t.Fatal(err)
	}
	if found, err := s.readPolls(); err != nil || found != "pets" || string(s.polls) != string(shipped) {
		t.Errorf("readPolls = %q, %v", found, err)
	}
}
