package settings

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Credentials are the user and password that the API demands; the zero value demands none. While the password is being
// exchanged for another, Also are accepted as well.
type Credentials struct {
	User, Password string
	Also           []string
}

// ReadCredentials reads them from the files basic-auth-user and basic-auth-password of dir, as OpenFaaS names them, or
// gives the zero value if demanded is false. White space around either is dropped, as faas-cli drops it. The password's
// file may have several lines: the first is the password, the others are accepted as well.
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
	c := Credentials{User: user}
	for line := range strings.Lines(password) {
		switch line = strings.TrimSpace(line); {
		case line == "":
		case c.Password == "":
			c.Password = line
		default:
			c.Also = append(c.Also, line)
		}
	}
	return c, errors.Join(err1, err2)
}

// Accepts reports whether an Authorization header carries these credentials; if none are demanded, any does. It compares
// digests, in constant time, so that not even the length of the password shows.
func (c Credentials) Accepts(authorization string) bool {
	if c.User == "" {
		return true
	}
	scheme, given, _ := strings.Cut(authorization, " ")
	got := sha256.Sum256([]byte("Basic " + strings.TrimSpace(given)))
	fits := 0
	for _, password := range append([]string{c.Password}, c.Also...) {
		want := sha256.Sum256([]byte(Credentials{User: c.User, Password: password}.Header()))
		fits |= subtle.ConstantTimeCompare(want[:], got[:])
	}
	return fits == 1 && strings.EqualFold(scheme, "basic")
}

// Header is what an Authorization header with these credentials says.
func (c Credentials) Header() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Password))
}
