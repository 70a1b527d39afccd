package up

import (
	"bytes"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"waggle/functions/pollfile"
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

func TestAnEditThatFalsifiesAPollStopsUp(t *testing.T) {
	t.Parallel()
	s := newTestSystem(t, nil)
	if err := os.Mkdir(filepath.Join(s.Root, "functions"), 0o755); err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../functions/polls.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.state.write(appliedPolls, string(shipped)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ from, to, want string }{
		{`"slug": "cats"`, `"slug": "birds"`, "votes for the one would count for the other"},
		{`"mode": "last"`, `"mode": "first"`, "other votes of the same voters would count"},
		{`"name": "Cats"`, `"name": "Cats", "image": "cats.png"`, "cats.png"},
		{`"mode": "last"`, `"mode": "once"`, "make codes POLL=pets"},
	} {
		path := filepath.Join(s.Root, "functions", "polls.json")
		if err := os.WriteFile(path, []byte(strings.Replace(string(shipped), test.from, test.to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		told := func(err error) string {
			if err == nil {
				return ""
			}
			failure := err.Error()
			return failure + s.Out.(*bytes.Buffer).String()
		}
		if err := s.Up(t.Context()); !strings.Contains(told(err), test.want) {
			t.Errorf("up: %v, want %q", err, test.want)
		}
		if err := s.Polls(t.Context()); !strings.Contains(told(err), test.want) {
			t.Errorf("polls: %v, want %q", err, test.want)
		}
	}
}

func TestCodes(t *testing.T) {
	t.Parallel()
	s := newTestSystem(t, nil)
	codes := filepath.Join(s.Root, "functions", "vote", "codes")
	if err := os.MkdirAll(codes, 0o755); err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../functions/polls.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root, "functions", "polls.json"), []byte(strings.Replace(string(shipped), `"mode": "last"`, `"mode": "once"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]CodesConfig{
		"POLL": {Poll: "birds", Count: 1, Out: t.TempDir()}, "COUNT": {Poll: "pets", Out: t.TempDir()}, "OUT": {Poll: "pets", Count: 1},
	} {
		if err := s.Codes(t.Context(), bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	seen := map[string]bool{}
	for i := range 2 {
		out := t.TempDir()
		c := CodesConfig{Poll: "pets", Count: 300, Out: out, Ballot: "https://vote.example/"}
		if err := s.Codes(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if err := s.Codes(t.Context(), c); err == nil {
			t.Error("codes that were made before are overwritten")
		}
		file, err := os.Open(filepath.Join(out, "pets-codes.csv"))
		if err != nil {
			t.Fatal(err)
		}
		table, err := csv.NewReader(file).ReadAll()
		file.Close()
		if err != nil || len(table) != 301 {
			t.Fatalf("the table has %d lines, %v", len(table), err)
		}
		list, err := os.ReadFile(filepath.Join(codes, "pets.codes"))
		if err != nil || len(list) != (i+1)*300*pollfile.CodeHashBytes {
			t.Fatalf("the list has %d bytes, %v", len(list), err)
		}
		sheet, err := os.ReadFile(filepath.Join(out, "pets-codes.html"))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range table[1:] {
			plain := strings.ReplaceAll(line[1], "-", "")
			hash := pollfile.CodeHash(1, plain)
			if seen[plain] || !bytes.Contains(list, hash[:]) || bytes.Contains(list, []byte(plain)) || line[2] != "https://vote.example/?code="+plain+"&poll=pets" || !bytes.Contains(sheet, []byte(line[1])) {
				t.Fatalf("line %v", line)
			}
			seen[plain] = true
		}
	}
}
