package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every command has a target of make and an explanation; voters, up and those below explain themselves through the same.
func TestCommandsAreTargetsOfMakeAndExplainThemselves(t *testing.T) {
	t.Parallel()
	makefile := read(t, "../Makefile")
	for name, command := range commands {
		if !strings.Contains(makefile, "\n"+name+": ") || !strings.Contains(makefile, "$(DEPLOY) "+name) {
			t.Errorf("make has no %s", name)
		}
		if command.help == "" {
			t.Errorf("%s explains nothing", name)
		}
	}
}

// What the pages tell operators to type exists.
func TestPagesNameCommandsAndSettingsThatExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"NAME": true, "ARGS": true, "FUZZTIME": true, "INSTALL": true, "COPIES": true, "PUBLIC_ORIGINS": true, "RESULTS_URL": true, "VOTE_URL": true}
	for i := range reflect.TypeFor[settings]().NumField() {
		known[reflect.TypeFor[settings]().Field(i).Tag.Get("envconfig")] = true
	}
	targets := regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
	makes := map[string]bool{}
	for _, match := range targets.FindAllStringSubmatch(read(t, "../Makefile"), -1) {
		makes[match[1]] = true
	}
	typed := regexp.MustCompile("`make (?:--silent )?([a-z0-9-]+)([^`\n]*)|(?m:^make ([a-z0-9-]+)(.*)$)")
	setting := regexp.MustCompile(`\b([A-Z][A-Z_]+)=`)
	for _, page := range []string{"../docs/operate.md", "../docs/capacity.md", "../docs/polls.md", "README.md", "../README.md", "../SECURITY.md", "../CONTRIBUTING.md"} {
		for _, match := range typed.FindAllStringSubmatch(read(t, page), -1) {
			target, rest := match[1]+match[3], match[2]+match[4]
			if !makes[target] {
				t.Errorf("%s: make has no %s", page, target)
			}
			for _, name := range setting.FindAllStringSubmatch(rest, -1) {
				if !known[name[1]] {
					t.Errorf("%s: make %s%s: there is no setting %s", page, target, rest, name[1])
				}
			}
		}
	}
}

func TestMistakesNameWhatIsLegal(t *testing.T) {
	for name, want := range map[string]string{
		"drain":    "NODE is empty: must be the name of a node",
		"backup":   "PASSPHRASE_FILE is empty",
		"restore":  "FROM is empty",
		"capacity": "VOTES is 0: must be 1 to",
		"nonsense": "no such command; legal are backup, capacity,",
	} {
		if err := run(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	t.Setenv("AT", "yesterday")
	if err := run(t.Context(), "restore"); err == nil || !strings.Contains(err.Error(), `AT is "yesterday": must be a moment such as 2026-`) {
		t.Errorf("a moment in words: %v", err)
	}
	t.Setenv("AT", "2026-11-30T08:20:00Z")
	t.Setenv("FROM", "/backup/1")
	if err := run(t.Context(), "restore"); err == nil || !strings.Contains(err.Error(), "FROM must be empty and WHAT votes") {
		t.Errorf("a moment of a backup: %v", err)
	}
	if err := run(t.Context(), "drain", "m2"); err == nil || !strings.Contains(err.Error(), `argument "m2"`) {
		t.Errorf("an argument: %v", err)
	}
}

// A cluster that is still there needs its passwords; one that is gone leaves none.
func TestClusterDownRemovesWhatWasGenerated(t *testing.T) {
	state, bin := t.TempDir(), t.TempDir()
	t.Setenv("WAGGLE_STATE", state)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("CLUSTER", "gone")
	password := filepath.Join(state, "cluster-gone", "basic-auth-password")
	if err := os.MkdirAll(filepath.Dir(password), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		docker string
		kept   bool
	}{{"exit 1", true}, {"exit 0", false}} {
		if err := os.WriteFile(filepath.Join(bin, "docker"), []byte("#!/bin/sh\n"+tc.docker+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := run(t.Context(), "cluster-down"); (err != nil) != tc.kept {
			t.Errorf("docker says %s: %v", tc.docker, err)
		}
		if _, err := os.Stat(password); (err == nil) != tc.kept {
			t.Errorf("docker says %s: the password's file: %v", tc.docker, err)
		}
	}
	if _, err := os.Stat(state); err != nil {
		t.Errorf("the states of other systems: %v", err)
	}
}
