// Package scram makes of a password what Postgres stores of it, so that the password itself is neither sent nor logged.
package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// iterations is Postgres's own number.
const iterations = 4096

// Verifier is a password in the form of RFC 5803, SCRAM-SHA-256 with a salt of its own. Postgres takes it for the password.
// It fails if this machine's policy forbids the key derivation (FIPS 140-3 mode and a short password).
func Verifier(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	return withSalt(password, salt)
}

func withSalt(password string, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hashing a password: %w", err)
	}
	sign := func(key []byte, text string) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	base := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, base(salt), base(stored[:]), base(sign(salted, "Server Key"))), nil
}
