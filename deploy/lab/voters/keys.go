package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"waggle/deploy/lab/voters/judge"
)

// keysLimit bounds the secret: a handful of lines of 150 characters.
const keysLimit = 64 << 10

// nobody is the name of every voter in a run that is not judged.
func nobody(string) (judge.Pseudonym, error) { return judge.Pseudonym{1}, nil }

// readKeys reads the secret voter-keys, whose form functions/vote defines, and returns how the books name a
// voter of the poll. That is the first 16 bytes of HMAC-SHA256(key of the poll, id in the cookie). The key of
// poll n is HMAC-SHA256(line "poll", "waggle/v1/poll/<n>"). No message carries a part of the secret.
func readKeys(file string, poll int32) (func(id string) (judge.Pseudonym, error), error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the voter keys: %w", err)
	}
	key, err := pollKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("reading the voter keys from %s: %w", file, err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "waggle/v1/poll/%d", poll)
	derived := mac.Sum(nil)
	return func(id string) (name judge.Pseudonym, err error) {
		if len(id) != 36 {
			return name, fmt.Errorf("the id in the voter's cookie has %d characters, not a UUID's 36", len(id))
		}
		mac := hmac.New(sha256.New, derived)
		mac.Write([]byte(id))
		copy(name[:], mac.Sum(nil))
		return name, nil
	}, nil
}

func pollKey(text string) ([]byte, error) {
	if len(text) > keysLimit {
		return nil, fmt.Errorf("%d bytes: at most %d are legal", len(text), keysLimit)
	}
	var key []byte
	for i, line := range strings.Split(text, "\n") {
		digits, found := strings.CutPrefix(strings.TrimSpace(line), "poll:")
		if !found {
			continue
		}
		if key != nil {
			return nil, fmt.Errorf("line %d: a second key poll: exactly one is legal", i+1)
		}
		var err error
		if key, err = hex.DecodeString(digits); err != nil || len(key) < 32 || len(key) > 64 {
			return nil, fmt.Errorf("line %d: key poll must be 64 to 128 hex digits", i+1)
		}
	}
	if key == nil {
		return nil, errors.New("no line poll:<hex>")
	}
	return key, nil
}
