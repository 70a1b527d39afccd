//go:build e2e

package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"waggle/deploy/docker"
	"waggle/deploy/images"
)

// perlServer answers "/" with its node's name and "/all" with what every task of the service answers; perl-base is in
// the base image.
const perlServer = `
use IO::Socket::INET;
$SIG{CHLD} = "IGNORE";
$SIG{TERM} = sub { exit 0 };
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 16, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
  next if fork;
  my $request = <$client>;
  while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
  my $body = $ENV{NODE};
  if ($request =~ m{^GET /all }) {
    my (undef, undef, undef, undef, @found) = gethostbyname("tasks.page");
    $body = join " ", map {
      my $peer = IO::Socket::INET->new(PeerAddr => join(".", unpack("C4", $_)), PeerPort => 8080, Timeout => 3);
      my $answer = "none";
      if ($peer) { print $peer "GET / HTTP/1.0\r\n\r\n"; local $/; $answer = <$peer>; $answer =~ s/.*\r\n\r\n//s }
      $answer;
    } @found;
  }
  print $client "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ", length $body, "\r\n\r\n", $body;
  exit 0;
}`

// setup builds the node image and makes a cluster that is gone after the test, whatever happens.
func setup(t *testing.T, nodes int) (context.Context, docker.Engine, *Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	engine := docker.Engine{}
	builder := images.Builder{Engine: engine, Root: filepath.Join("..", "..", ".."), Progress: func(line string) { t.Log(line) }}
	if err := builder.EnsureBase(ctx); err != nil {
		t.Fatal(err)
	}
	built, err := builder.Build(ctx, images.Node)
	if err != nil {
		t.Fatal(err)
	}
	name := "it-" + strings.ToLower(rand.Text()[:8])
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Delete(ctx, engine, name); err != nil {
			t.Errorf("deleting the cluster: %v", err)
		}
	})
	cluster, err := Create(ctx, Config{
		Engine: engine, Name: name, Nodes: nodes, Image: built[images.Node].Reference,
		Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return ctx, engine, cluster
}

func TestClusterIsASwarmThatSurvivesPowerLossAndLeavesNothing(t *testing.T) {
	ctx, engine, cluster := setup(t, 3)
	manager := cluster.Nodes[0].Engine

	members := run(t, ctx, manager, "node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}}")
	if got, want := sortedLines(members), "node1 Ready Leader\nnode2 Ready \nnode3 Ready "; got != want {
		t.Errorf("members are\n%s\nwant\n%s", got, want)
	}
	for i, node := range cluster.Nodes {
		var got []string
		for _, label := range []string{"edge", "capture", "worker", "store"} {
			format := fmt.Sprintf("{{index .Spec.Labels %q}}", "waggle."+label)
			if run(t, ctx, manager, "node", "inspect", "--format", format, node.Name) == "true" {
				got = append(got, label)
			}
		}
		want := "edge capture"
		if i == 0 {
			want = "edge worker store"
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has labels %v, want %s", node.Name, got, want)
		}
	}

	if _, err := Create(ctx, Config{Engine: engine, Name: cluster.Name, Image: "x"}); !errors.Is(err, ErrExists) {
		t.Errorf("a second cluster of this name: %v, want ErrExists", err)
	}
	exerciseOverlay(t, ctx, engine, cluster)
	exercisePowerLoss(t, ctx, engine, cluster)

	if err := Delete(ctx, engine, cluster.Name); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, ctx, engine, cluster)
	if _, err := Open(ctx, engine, cluster.Name); !errors.Is(err, ErrNotFound) {
		t.Errorf("opening the deleted cluster: %v, want ErrNotFound", err)
	}
}

// exerciseOverlay runs a page on every node and reaches each by loopback and across nodes by DNS.
func exerciseOverlay(t *testing.T, ctx context.Context, engine docker.Engine, cluster *Cluster) {
	t.Helper()
	if err := cluster.Load(ctx, images.Debian); err != nil {
		t.Fatal(err)
	}
	want, _ := engine.ImageID(ctx, images.Debian)
	for _, node := range cluster.Nodes {
		if got, err := node.Engine.ImageID(ctx, images.Debian); err != nil || got != want {
			t.Errorf("%s has image %q (%v), want %s", node.Name, got, err, want)
		}
	}
	manager := cluster.Nodes[0].Engine
	run(t, ctx, manager, "network", "create", "--driver=overlay", "it-overlay")
	run(t, ctx, manager, "service", "create", "--detach", "--quiet", "--no-resolve-image", "--name=page", "--mode=global", "--endpoint-mode=dnsrr",
		"--network=it-overlay", "--publish=mode=host,target=8080,published=8080", "--env=NODE={{.Node.Hostname}}",
		images.Debian, "perl", "-e", perlServer)
	// Each page fetches all others over the overlay: three answers from three nodes. Names spread by gossip.
	for _, node := range cluster.Nodes {
		awaitPage(t, ctx, node, "/", node.Name)
		awaitPage(t, ctx, node, "/all", "node1 node2 node3")
	}
}

func exercisePowerLoss(t *testing.T, ctx context.Context, engine docker.Engine, cluster *Cluster) {
	t.Helper()
	victim := cluster.Nodes[2]
	manager := cluster.Nodes[0].Engine
	if err := victim.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if state := run(t, ctx, engine, "inspect", "--format={{.State.Paused}}", victim.Container); state != "true" {
		t.Errorf("a hanging node is paused=%s", state)
	}
	impatient := &http.Client{Timeout: 3 * time.Second}
	if response, err := impatient.Get(fmt.Sprintf("http://127.0.0.1:%d/", victim.Port)); err == nil {
		response.Body.Close()
		t.Errorf("a service on a hanging node answers %s", response.Status)
	}
	if err := victim.Unpause(ctx); err != nil {
		t.Fatal(err)
	}
	awaitPage(t, ctx, victim, "/", victim.Name)
	before := run(t, ctx, manager, "node", "inspect", "--format", "{{.ID}}", victim.Name)
	if err := victim.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := victim.Engine.Ping(ctx); !errors.Is(err, docker.ErrDaemonDown) {
		t.Errorf("a node without power: %v, want ErrDaemonDown", err)
	}
	// Another process of the deploy program would find the cluster by its labels.
	found, err := Open(ctx, engine, cluster.Name)
	if err != nil {
		t.Fatal(err)
	}
	if got := *found.Nodes[2]; got.Name != victim.Name || got.Address != victim.Address || got.Port != victim.Port ||
		got.Engine != victim.Engine || !slices.Equal(got.Roles, victim.Roles) {
		t.Errorf("found node %+v, want %+v", got, *victim)
	}
	if err := found.Nodes[2].Start(ctx); err != nil {
		t.Fatal(err)
	}
	if after := run(t, ctx, victim.Engine, "info", "--format", "{{.Swarm.NodeID}}"); after != before {
		t.Errorf("the node came back as %s, was %s", after, before)
	}
	awaitPage(t, ctx, victim, "/", victim.Name)
	awaitPage(t, ctx, cluster.Nodes[0], "/all", "node1 node2 node3")
}

func assertNothingLeft(t *testing.T, ctx context.Context, engine docker.Engine, cluster *Cluster) {
	t.Helper()
	left, err := leftovers(ctx, engine, cluster.Name)
	if err != nil || left != 0 {
		t.Errorf("%d objects are left (%v)", left, err)
	}
	for _, node := range cluster.Nodes {
		for _, pattern := range []string{"/sys/fs/cgroup/" + node.Container, "/sys/fs/cgroup/*/" + node.Container} {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				t.Errorf("control groups are left: %v", found)
			}
		}
	}
	if dir := filepath.Join(defaultStateDir(), cluster.Name); dirExists(dir) {
		t.Errorf("%s is left", dir)
	}
}

func dirExists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}

func run(t *testing.T, ctx context.Context, engine docker.Engine, args ...string) string {
	t.Helper()
	out, err := engine.Run(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitPage waits until a node's page holds the wanted words in any order; the test's context bounds it.
func awaitPage(t *testing.T, ctx context.Context, node *Node, path, want string) {
	t.Helper()
	var got string
	err := node.cluster.await(ctx, "page "+path+" of "+node.Name, func(ctx context.Context) (bool, error) {
		got = fetch(ctx, fmt.Sprintf("http://127.0.0.1:%d%s", node.Port, path))
		return sortedWords(got) == want, nil
	})
	if err != nil {
		tasks, _ := node.cluster.Nodes[0].Engine.Run(ctx, "service", "ps", "--no-trunc", "--format", "{{.Node}} {{.CurrentState}} {{.Error}}", "page")
		t.Fatalf("%v; it says %q, want %q; tasks:\n%s", err, got, want, tasks)
	}
}

func fetch(ctx context.Context, url string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	return string(body)
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func sortedWords(text string) string {
	words := strings.Fields(text)
	slices.Sort(words)
	return strings.Join(words, " ")
}
