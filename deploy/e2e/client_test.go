//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
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

// postJSON sends a vote with the cookies that the jar has now.
func (v *voter) postJSON(choice string) {
	v.t.Helper()
	answer := v.do(http.MethodPost, "application/json", strings.NewReader(`{"poll":"pets","choice":"`+choice+`"}`), "application/json")
	var receipt struct{ Status, Choice, Receipt string }
	if err := json.Unmarshal([]byte(answer), &receipt); err != nil || receipt.Status != "recorded" || receipt.Choice != choice || receipt.Receipt == "" {
		v.t.Fatalf("the vote is answered %s (%v), want a receipt for %s", answer, err, choice)
	}
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
	eventually(t, 5*time.Second, func() error {
		r, err := s.results()
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
func sameTotals(before, after results) error {
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

// testClient uses the system as a developer does: with the official faas-cli where there is one on PATH. The same
// calls, made by go-sdk, have brought up the functions that every other test here uses.
func (s *system) testClient(t *testing.T) {
	cli, err := exec.LookPath("faas-cli")
	if err != nil {
		t.Log("faas-cli is not on PATH; its calls were made by go-sdk in make up")
		s.testRESTLifecycle(t)
		return
	}
	home := t.TempDir()
	run := func(stdin string, args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), cli, args...)
		command.Dir = home
		if slices.Contains(args, "stack.yml") {
			command.Dir = s.config.Root // elsewhere the client would take a stack.yml that it finds before the flags
		}
		command.Env = append(os.Environ(), "OPENFAAS_URL="+s.gateway, "OPENFAAS_CONFIG="+home, "HOME="+home)
		command.Stdin = strings.NewReader(stdin)
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("faas-cli %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	want := func(out, part string) {
		t.Helper()
		if !strings.Contains(out, part) {
			t.Fatalf("faas-cli does not say %q:\n%s", part, out)
		}
	}
	want(run(s.credential(t, "basic-auth-password"), "login", "--username", "admin", "--password-stdin"), "credentials saved")
	run("", "up", "--skip-push", "--filter", "results", "-f", "stack.yml")
	if err := s.cluster.Load(t.Context(), "localhost/waggle/results:latest"); err != nil {
		t.Fatal(err)
	}
	listed := run("", "list", "-v")
	want(listed, "vote")
	want(listed, "results")
	want(run("", "describe", "vote"), "Ready")
	want(run("", "invoke", "results", "--method", "GET", "--query", "format=json"), `"ledger"`)
	want(run("", "diff", "-f", "stack.yml"), "")
	run("", "secret", "create", "trial", "--from-literal", "one")
	want(run("", "secret", "list"), "trial")
	run("", "secret", "update", "trial", "--from-literal", "two")
	run("", "secret", "remove", "trial")
	run("", "deploy", "--image", "localhost/waggle/results:latest", "--name", "trial", "--secret", "postgres-results", "--secret", "polls",
		"--annotation", "com.waggle.networks=waggle-results", "--env", "postgres_host=tasks.waggle_postgres")
	run("", "ready", "trial")
	want(run("", "logs", "trial", "--tail=false"), "function starting")
	run("", "remove", "trial")
	eventually(t, 30*time.Second, func() error { return s.status404("/function/trial") })
}

// testRESTLifecycle deploys, reads and removes a function with plain HTTP.
func (s *system) testRESTLifecycle(t *testing.T) {
	body := `{"service":"trial","image":"localhost/waggle/results:latest","labels":{},"annotations":{"com.waggle.networks":"waggle-results"},` +
		`"secrets":["postgres-results","polls"],"envVars":{"postgres_host":"tasks.waggle_postgres"}}`
	s.call(t, http.MethodPut, "/system/functions", body, http.StatusNotFound)
	s.call(t, http.MethodPost, "/system/functions", body, http.StatusAccepted)
	eventually(t, time.Minute, func() error {
		var status struct{ AvailableReplicas int }
		if err := json.Unmarshal([]byte(s.call(t, http.MethodGet, "/system/function/trial", "", http.StatusOK)), &status); err != nil {
			return err
		}
		if status.AvailableReplicas == 0 {
			return fmt.Errorf("trial has no replica yet")
		}
		return nil
	})
	s.call(t, http.MethodDelete, "/system/functions", `{"functionName":"trial"}`, http.StatusAccepted)
	eventually(t, 30*time.Second, func() error { return s.status404("/function/trial") })
}

// status404 returns nil once path answers 404.
func (s *system) status404(path string) error {
	response, err := http.Get(s.gateway + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		return fmt.Errorf("%s answers %s", path, response.Status)
	}
	return nil
}

// call makes one authenticated call and returns its body.
func (s *system) call(t *testing.T, method, path, body string, wantStatus int) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.gateway+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("admin", s.credential(t, "basic-auth-password"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != wantStatus {
		t.Fatalf("%s %s: %s, want %d: %s", method, path, response.Status, wantStatus, text)
	}
	return string(text)
}
