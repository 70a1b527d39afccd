//go:build e2e

// Package e2e holds the end-to-end tests: the real images on real Swarms of node containers, used as voters, developers and operators use them, and
// reconciled vote by vote. Nothing of the machine's own Swarm is touched.
package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/up"
)

// system is one Waggle on a cluster of node containers of its own.
type system struct {
	*up.System
	cluster *cluster.Cluster
	config  up.Config
	target  up.Target
	gateway string
	log     *bytes.Buffer
}

// start makes a cluster, brings Waggle up on it, and removes both when the test ends.
func start(t *testing.T, nodes int) *system {
	t.Helper()
	ctx := t.Context()
	machine := docker.Engine{}
	note := func(line string) { t.Log(line) }
	name := fmt.Sprintf("test%d-%d", nodes, os.Getpid())
	made, err := up.CreateCluster(ctx, "../../..", cluster.Config{Engine: machine, Name: name, Nodes: nodes, Progress: note})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(ctx), machine, name); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &system{cluster: made, target: up.OnCluster(made), log: &bytes.Buffer{}}
	s.gateway = s.target.Gateways[0]
	s.config = up.Config{
		Target: s.target, Root: root, StateDir: t.TempDir(), Port: up.DefaultPort, Workers: 1,
		RedisMaxMemory: "256mb", QueueMaxMemory: "128mb", Out: io.MultiWriter(s.log, testWriter{t}),
	}
	s.up(t)
	return s
}

// up runs what `make up` runs and returns what it printed.
func (s *system) up(t *testing.T) string {
	t.Helper()
	s.log.Reset()
	var err error
	if s.System, err = up.New(s.config); err != nil {
		t.Fatal(err)
	}
	if err := s.Up(t.Context()); err != nil {
		s.dump(t)
		t.Fatalf("make up: %v", err)
	}
	return s.log.String()
}

// dump logs what an operator would look at, for a failure on a machine that is gone afterwards.
func (s *system) dump(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"service", "ls"},
		{"service", "logs", "--tail", "20", "waggle_provider"},
		{"service", "logs", "--tail", "20", "waggle_gateway"},
		{"service", "logs", "--tail", "20", "waggle_worker"},
		{"service", "logs", "--tail", "20", "vote"},
		{"service", "logs", "--tail", "20", "results"},
	} {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		out, err := s.target.Manager.Run(ctx, args...)
		cancel()
		t.Logf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// eventually asks until check returns nil; the last error fails the test.
func eventually(t *testing.T, within time.Duration, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", within, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
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
	return &voter{t: t, base: s.gateway, http: &http.Client{Jar: jar, Timeout: 10 * time.Second}}
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

// results is what the results function answers as JSON.
type results struct {
	Polls []struct {
		Slug    string
		Options []struct {
			Slug  string
			Votes int64
		}
		Total int64
	}
	Ledger up.Ledger
}

func (s *system) results() (results, error) {
	var r results
	response, err := http.Get(s.gateway + "/function/results?format=json")
	if err != nil {
		return r, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return r, fmt.Errorf("results answer %s", response.Status)
	}
	return r, json.NewDecoder(response.Body).Decode(&r)
}

// votes returns the count of one option of the first poll.
func (s *system) votes(choice string) (int64, error) {
	r, err := s.results()
	if err != nil {
		return 0, err
	}
	for _, poll := range r.Polls {
		for _, option := range poll.Options {
			if option.Slug == choice {
				return option.Votes, nil
			}
		}
	}
	return 0, fmt.Errorf("the results have no option %q: %+v", choice, r)
}

// counts waits until exactly the given votes are shown.
func (s *system) counts(t *testing.T, within time.Duration, cats, dogs int64) {
	t.Helper()
	eventually(t, within, func() error {
		c, err := s.votes("cats")
		if err != nil {
			return err
		}
		d, err := s.votes("dogs")
		if err != nil {
			return err
		}
		if c != cats || d != dogs {
			return fmt.Errorf("shown are %d cats and %d dogs, want %d and %d", c, d, cats, dogs)
		}
		return nil
	})
}

// judge runs the load program against every gateway; it exits 1 unless every acknowledged vote is counted once.
func (s *system) judge(t *testing.T, args ...string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "voters")
	if out, err := exec.Command("go", "build", "-o", binary, "../voters").CombinedOutput(); err != nil {
		t.Fatalf("building voters: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary, append(s.VotersArgs(), args...)...)
	command.Dir = s.config.Root
	out, err := command.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		s.dump(t)
		t.Fatalf("voters: %v", err)
	}
}

// credential reads a generated credential from the state directory.
func (s *system) credential(t *testing.T, name string) string {
	t.Helper()
	value, err := os.ReadFile(filepath.Join(s.config.StateDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}

// authorization is what an Authorization header with the API's credentials says.
func (s *system) authorization(t *testing.T) string {
	t.Helper()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+s.credential(t, "basic-auth-password")))
}
