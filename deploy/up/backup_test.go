package up

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func init() { guessWork = 10 } // a second for each file is too long here

const passphrase = "correct horse battery"

// backedUp makes a backup of a state directory, with a docker command whose pg_dump says "the votes".
func backedUp(t *testing.T) (s *System, folder string) {
	t.Helper()
	s = newTestSystem(t, nil)
	for name, value := range map[string]string{"redis-drain": "secret", "voter-keys": "poll:aa\nk1:bb"} {
		if err := s.state.write(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(s.state.path("summaries"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.state.write("summaries/one.json", "{}"); err != nil {
		t.Fatal(err)
	}
	fakeDocker(t, map[string]string{"config ls": "", "ps --quiet": "c1", "exec c1": "the votes"})
	out := t.TempDir()
	if err := s.Backup(t.Context(), out, passphrase); err != nil {
		t.Fatal(err)
	}
	found, err := os.ReadDir(out)
	if err != nil || len(found) != 1 || strings.HasSuffix(found[0].Name(), ".partial") {
		t.Fatalf("OUT has %v, %v", found, err)
	}
	return s, filepath.Join(out, found[0].Name())
}

func TestABackupIsSecretAndComesBackOnAnotherMachine(t *testing.T) {
	s, folder := backedUp(t)
	for _, name := range []string{stateArchive, votesArchive} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil || bytes.Contains(text, []byte("secret")) || bytes.Contains(text, []byte("the votes")) {
			t.Errorf("%s can be read, %v", name, err)
		}
	}
	plain, closer, err := open(filepath.Join(folder, votesArchive), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	if text, err := io.ReadAll(plain); err != nil || string(text) != "the votes\n" {
		t.Errorf("the votes are %q, %v", text, err)
	}

	elsewhere := filepath.Join(t.TempDir(), "state", "machines-waggle")
	if err := RestoreState(elsewhere, folder, passphrase); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"redis-drain", "voter-keys", "summaries/one.json"} {
		want, _ := s.state.read(name)
		if got, err := (state{elsewhere}).read(name); err != nil || got != want || want == "" {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(elsewhere, "redis-drain")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a password: %v, %v", info, err)
	}
	if err := RestoreState(elsewhere, folder, passphrase); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestARestoreRefusesWhatWouldHarm(t *testing.T) {
	s, folder := backedUp(t)
	if err := s.state.write("redis-drain", "rotated since"); err != nil {
		t.Fatal(err)
	}
	if err := RestoreState(s.StateDir, folder, passphrase); err == nil || !strings.Contains(err.Error(), "has another redis-drain than the backup") {
		t.Errorf("over a newer state: %v", err)
	}
	if got, _ := s.state.read("redis-drain"); got != "rotated since" {
		t.Errorf("the newer password became %q", got)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if err := RestoreState(dir, folder, "another passphrase"); err == nil || !strings.Contains(err.Error(), "Is PASSPHRASE_FILE the one it was made with?") {
		t.Errorf("with another passphrase: %v", err)
	}
	if err := RestoreState(dir, t.TempDir(), passphrase); err == nil || !strings.Contains(err.Error(), "must be a folder that make backup made") {
		t.Errorf("from an empty folder: %v", err)
	}
	archive := filepath.Join(folder, stateArchive)
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-1] ^= 1
	if err := os.WriteFile(archive, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RestoreState(dir, folder, passphrase); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a damaged one: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a refused restore left %s, %v", dir, err)
	}
}

// Without its last file a backup has no manifest, and its name says so.
func TestAnInterruptedBackupIsNone(t *testing.T) {
	s := newTestSystem(t, nil)
	if err := s.state.write("redis-drain", "secret"); err != nil {
		t.Fatal(err)
	}
	fakeDocker(t, map[string]string{"config ls": "", "ps --quiet": "c1"}) // whose pg_dump fails
	out := t.TempDir()
	if err := s.Backup(t.Context(), out, passphrase); err == nil || !strings.Contains(err.Error(), "votes: writing votes.dump.age") {
		t.Errorf("got %v", err)
	}
	if found, err := filepath.Glob(out + "/*"); err != nil || len(found) != 1 || !strings.HasSuffix(found[0], ".partial") {
		t.Errorf("OUT has %v, %v", found, err)
	}
}

func TestPassphrases(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "passphrase")
	for text, want := range map[string]string{passphrase + "\nmore": "", "  " + passphrase + " \n": "", "short\n": "has 5 characters: must be 12 or more", "": "has 0 characters"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadPassphrase(file)
		if want == "" && (err != nil || got != passphrase) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := ReadPassphrase(""); err == nil || !strings.Contains(err.Error(), "PASSPHRASE_FILE is empty") {
		t.Errorf("no file: %v", err)
	}
}
