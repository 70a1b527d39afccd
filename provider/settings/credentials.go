package settings

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Credentials are the user and password that the API demands; the zero value demands none.
type Credentials struct{ User, Password string }

// ReadCredentials reads them from the files basic-auth-user and basic-auth-password of dir, as OpenFaaS names them, or
// gives the zero value if demanded is false. White space around either is dropped, as faas-cli drops it.
func ReadCredentials(dir string, demanded bool) (Credentials, error) {
	if !demanded {
		return Credentials{}, nil
	}
	read := func(name string) (string, error) {
		text, err := ReadSecret(dir, name)
		if err != nil {
			return "", fmt.Errorf("%w, while basic_auth is true", err)
		}
		value := strings.TrimSpace(text)
		if value == "" {
			return "", fmt.Errorf("secret %s is blank: must be text, while basic_auth is true", name)
		}
		return value, nil
	}
	user, err1 := read("basic-auth-user")
	password, err2 := read("basic-auth-password")
	if strings.Contains(user, ":") {
		err1 = fmt.Errorf("secret basic-auth-user has a colon: must have none, since HTTP ends the name there")
	}
	return Credentials{user, password}, errors.Join(err1, err2)
}

// Accepts reports whether an Authorization header carries these credentials; if none are demanded, any does. It compares
// digests, in constant time, so that not even the length of the password shows.
func (c Credentials) Accepts(authorization string) bool {
	if c.User == "" {
		return true
	}
	scheme, given, _ := strings.Cut(authorization, " ")
	want, got := sha256.Sum256([]byte(c.Header())), sha256.Sum256([]byte("Basic "+strings.TrimSpace(given)))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && strings.EqualFold(scheme, "basic")
}

// Header is what an Authorization header with these credentials says.
func (c Credentials) Header() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Password))
}
