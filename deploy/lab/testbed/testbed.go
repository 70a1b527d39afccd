// Package testbed brings a whole Waggle up on a Swarm of node containers, for tests that use it and harm it.
//
// In: a test and a number of nodes. Out: the running system with what a test asks of it: its results, its ledger, its
// credentials, a judged crowd of voters. Both it and its nodes are gone when the test ends; nothing of the machine's own
// Swarm is touched.
package testbed

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/up"
)

// Version is what the system under test is called.
const Version = "0.0.0-testbed"

// System is one Waggle on a cluster of node containers of its own.
type System struct {
	*up.System
	Cluster *cluster.Cluster
	// Gateway is the base URL of the first node's.
	Gateway string

	root   string
	config up.Config
	log    *bytes.Buffer // what the last Up printed
}

// Start makes a cluster, brings Waggle up on it, and removes both when the test ends.
func Start(t *testing.T, nodes int) *System {
	t.Helper()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	machine := docker.Engine{}
	note := func(line string) { t.Log(line) }
	name := fmt.Sprintf("test%d-%d", nodes, os.Getpid())
	made, err := up.CreateCluster(ctx, root, cluster.Config{Engine: machine, Name: name, Nodes: nodes, Progress: note})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Delete(context.WithoutCancel(ctx), machine, name); err != nil {
			t.Errorf("removing the cluster: %v", err)
		}
	})
	target := up.OnCluster(made)
	s := &System{Cluster: made, Gateway: target.Gateways[0], root: root, log: &bytes.Buffer{}}
	s.config = up.Config{
		Target: target, Root: root, StateDir: t.TempDir(), Version: Version, Port: up.DefaultPort, Workers: 1,
		RedisMaxMemory: "256mb", QueueMaxMemory: "128mb", Out: io.MultiWriter(s.log, testWriter{t}),
	}
	s.MakeUp(t)
	return s
}

// repository is the root of the sources.
func repository() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "waggle").Output()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// MakeUp runs what `make up` runs, again or for the first time, and returns what it printed.
func (s *System) MakeUp(t *testing.T) string {
	t.Helper()
	s.log.Reset()
	var err error
	if s.System, err = up.New(s.config); err != nil {
		t.Fatal(err)
	}
	if err := s.Up(t.Context()); err != nil {
		s.Dump(t)
		t.Fatalf("make up: %v", err)
	}
	return s.log.String()
}

// Dump logs what an operator would look at, for a failure on a machine that is gone afterwards.
func (s *System) Dump(t *testing.T) {
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
		out, err := s.Target.Manager.Run(ctx, args...)
		cancel()
		t.Logf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// Eventually asks until check returns nil; the last error fails the test.
func Eventually(t testing.TB, within time.Duration, check func() error) {
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

// Results is what the results function answers as JSON.
type Results struct {
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

// Results asks the results function.
func (s *System) Results() (Results, error) {
	var r Results
	response, err := http.Get(s.Gateway + "/function/results?format=json")
	if err != nil {
		return r, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return r, fmt.Errorf("results answer %s", response.Status)
	}
	return r, json.NewDecoder(response.Body).Decode(&r)
}

// Votes returns the count of one option of the first poll.
func (s *System) Votes(choice string) (int64, error) {
	r, err := s.Results()
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

// Counts waits until exactly the given votes are shown.
func (s *System) Counts(t *testing.T, within time.Duration, cats, dogs int64) {
	t.Helper()
	Eventually(t, within, func() error {
		c, err := s.Votes("cats")
		if err != nil {
			return err
		}
		d, err := s.Votes("dogs")
		if err != nil {
			return err
		}
		if c != cats || d != dogs {
			return fmt.Errorf("shown are %d cats and %d dogs, want %d and %d", c, d, cats, dogs)
		}
		return nil
	})
}

// Judge runs the load program against every gateway; it exits 1 unless every acknowledged vote is counted once.
func (s *System) Judge(t *testing.T, args ...string) {
	t.Helper()
	s.judge(t, append(s.VotersArgs(), args...))
}

// JudgeDirectly is Judge at the nodes' own addresses. Behind the loopback ports is a proxy of Docker's. It takes
// connections for a node that is frozen, and ends when they are too many.
func (s *System) JudgeDirectly(t *testing.T, args ...string) {
	t.Helper()
	direct := []string{"-allow-remote"}
	for given := s.VotersArgs(); len(given) > 1; given = given[2:] {
		if given[0] != "-url" {
			direct = append(direct, given[0], given[1])
		}
	}
	for _, gateway := range s.NodeGateways() {
		direct = append(direct, "-url", gateway+"/function/vote")
	}
	s.judge(t, append(direct, args...))
}

func (s *System) judge(t *testing.T, args []string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "voters")
	if out, err := exec.Command("go", "build", "-o", binary, "waggle/deploy/lab/voters").CombinedOutput(); err != nil {
		t.Fatalf("building voters: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, binary, args...)
	command.Dir = s.root
	out, err := command.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		s.Dump(t)
		t.Fatalf("voters: %v", err)
	}
}

// Credential reads a generated credential from the state directory.
func (s *System) Credential(t *testing.T, name string) string {
	t.Helper()
	value, err := os.ReadFile(filepath.Join(s.StateDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(value))
}

// Authorization is what an Authorization header with the API's credentials says.
func (s *System) Authorization(t *testing.T) string {
	t.Helper()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+s.Credential(t, "basic-auth-password")))
}

// NodeGateways are the gateways at their nodes' own addresses. Behind the loopback ports is Docker's proxy,
// which accepts connections for gateways that are not there.
func (s *System) NodeGateways() []string {
	var all []string
	for _, node := range s.Cluster.Nodes {
		all = append(all, "http://"+node.Address+":8080")
	}
	return all
}
