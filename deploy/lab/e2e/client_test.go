//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// voteByJSON votes as an API client: one call for the token, one for the vote. It returns the cookies that the vote was sent with.
func (v *voter) voteByJSON(choice string) []*http.Cookie {
	v.t.Helper()
	v.do(http.MethodGet, "", nil, "application/json")
	address, err := url.Parse(v.base)
	if err != nil {
		v.t.Fatal(err)
	}
	sent := v.http.Jar.Cookies(address)
	v.postJSON(choice)
	return sent
}

// postJSON sends a vote with the cookies that the jar has now, and returns its receipt.
func (v *voter) postJSON(choice string) string {
	v.t.Helper()
	answer := v.do(http.MethodPost, "application/json", strings.NewReader(`{"poll":"pets","choice":"`+choice+`"}`), "application/json")
	var receipt struct{ Status, Choice, Receipt string }
	if err := json.Unmarshal([]byte(answer), &receipt); err != nil || receipt.Status != "recorded" || receipt.Choice != choice || receipt.Receipt == "" {
		v.t.Fatalf("the vote is answered %s (%v), want a receipt for %s", answer, err, choice)
	}
	return receipt.Receipt
}

// useCookies makes the next request carry these cookies: the same vote again, as a proxy that retries would send it.
func (v *voter) useCookies(cookies []*http.Cookie) {
	v.t.Helper()
	address, err := url.Parse(v.base)
	if err != nil {
		v.t.Fatal(err)
	}
	v.http.Jar.SetCookies(address, cookies)
}

// voteThrough casts n votes through one gateway.
func (s *system) voteThrough(t *testing.T, gateway string, n int) {
	t.Helper()
	for range n {
		v := s.newVoter(t)
		v.base = gateway
		v.voteByForm("cats")
	}
}

// delivered waits until the workers have taken n votes from the queues, counted or not.
func (s *system) delivered(t *testing.T, n int64) {
	t.Helper()
	testbed.Eventually(t, 5*time.Second, func() error {
		r, err := s.Results()
		if err != nil {
			return err
		}
		if r.Ledger.Counted != n || r.Ledger.Pending != 0 {
			return fmt.Errorf("%d votes taken, %d pending, want %d and 0", r.Ledger.Counted, r.Ledger.Pending, n)
		}
		return nil
	})
}

// sameTotals compares the counts of two results.
func sameTotals(before, after testbed.Results) error {
	for i, poll := range before.Polls {
		if len(after.Polls) <= i {
			return fmt.Errorf("poll %s is gone", poll.Slug)
		}
		for j, option := range poll.Options {
			if got := after.Polls[i].Options[j].Votes; got != option.Votes {
				return fmt.Errorf("%s has %d votes, had %d", option.Slug, got, option.Votes)
			}
		}
	}
	return nil
}

// status404 returns nil once path answers 404.
func (s *system) status404(path string) error {
	response, err := http.Get(s.Gateway + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		return fmt.Errorf("%s answers %s", path, response.Status)
	}
	return nil
}

// call makes one authenticated call, wants its status, and returns its body.
func (s *system) call(t *testing.T, method, path string, body any, wantStatus int) string {
	t.Helper()
	status, text, err := s.ask(t, method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	if status != wantStatus {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, status, wantStatus, text)
	}
	return text
}

// callers keeps enough idle connections for every client of a storm.
var callers = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 100, IdleConnTimeout: 10 * time.Second}}

// ask makes one authenticated call. A body that is not a string is sent as JSON; nil is none.
func (s *system) ask(t *testing.T, method, path string, body any) (status int, text string, err error) {
	t.Helper()
	var content io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		content = strings.NewReader(body)
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, "", err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, s.Gateway+path, content)
	if err != nil {
		return 0, "", err
	}
	request.SetBasicAuth("admin", s.Credential(t, "basic-auth-password"))
	response, err := callers.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), err
}
