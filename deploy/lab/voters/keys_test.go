package main

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeKeys(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "voter-keys")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadKeysNamesVotersAsTheBooksDo(t *testing.T) {
	t.Parallel()
	const voter = "e090a78e-fbd8-4e21-bb5c-d15086ff9d7d"
	of := func(poll int32) string {
		name, err := readKeys(writeKeys(t, "# comment\nk1:ff\n  "+keyLine+"  \r\n"), poll)
		if err != nil {
			t.Fatal(err)
		}
		got, err := name(voter)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := name("short"); err == nil {
			t.Error("an id that is no UUID was accepted")
		}
		return hex.EncodeToString(got[:])
	}
	if got := of(1); got != pseudonym(voter) {
		t.Errorf("got %s, want %s", got, pseudonym(voter))
	}
	if of(1) == of(2) {
		t.Error("a voter has the same name in two polls")
	}
}

func TestReadKeysRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"no poll key":   {"k1:" + strings.Repeat("ab", 32), "no line poll:<hex>"},
		"two poll keys": {keyLine + "\n" + keyLine, "line 2: a second key poll"},
		"a short key":   {"poll:abcd", "line 1: key poll must be 64 to 128 hex digits"},
		"no hex":        {"poll:" + strings.Repeat("xy", 32), "line 1: key poll must be 64 to 128 hex digits"},
		"another file":  {strings.Repeat("x", keysLimit+1), "at most 65536 are legal"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := readKeys(writeKeys(t, test.text), 1)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if digits := strings.TrimPrefix(keyLine, "poll:"); strings.Contains(err.Error(), digits) {
				t.Errorf("%v tells the secret", err)
			}
		})
	}
}
