//go:build e2e

// Package e2e holds the end-to-end tests. They run the real images on real Swarms of node containers, use them
// as voters, developers and operators do, and reconcile vote by vote. They touch nothing of the machine's own
// Swarm.
package e2e

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// system is a running Waggle with what the tests here try on it.
type system struct{ *testbed.System }

func start(t *testing.T, nodes int) *system {
	t.Helper()
	return &system{testbed.Start(t, nodes)}
}

// voter is one browser: a cookie jar that outlives the press.
type voter struct {
	t    *testing.T
	http *http.Client
	base string
}

func (s *system) newVoter(t *testing.T) *voter {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &voter{t: t, base: s.Gateway, http: &http.Client{Jar: jar, Timeout: 10 * time.Second}}
}

var nonceField = regexp.MustCompile(`name="([a-z]+)" value="([^"]*)"`)

// ballot fetches the page and returns the hidden fields of its form.
func (v *voter) ballot() url.Values {
	v.t.Helper()
	page := v.do(http.MethodGet, "", nil, "")
	fields := url.Values{}
	for _, match := range nonceField.FindAllStringSubmatch(page, -1) {
		fields.Set(match[1], match[2])
	}
	return fields
}

// voteByForm presses a button of the page, as a browser without JavaScript does.
func (v *voter) voteByForm(choice string) {
	v.t.Helper()
	fields := v.ballot()
	fields.Set("choice", choice)
	v.do(http.MethodPost, "application/x-www-form-urlencoded", strings.NewReader(fields.Encode()), "")
}

// do sends one request to the vote function, follows redirects, and returns the body of a 200.
func (v *voter) do(method, contentType string, body io.Reader, accept string) string {
	v.t.Helper()
	request, err := http.NewRequestWithContext(v.t.Context(), method, v.base+"/function/vote", body)
	if err != nil {
		v.t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := v.http.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		v.t.Fatalf("%s: %s: %s", method, response.Status, text)
	}
	return string(text)
}
