package up

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/docker"
)

// deployed is a deployment with one part and one function.
func deployed(version, part, function, polls string) Deployment {
	return Deployment{
		Version: version, Files: map[string]string{"stack.yml": version}, Layers: []string{"stack.yml"},
		Env:       map[string]string{"WORKER_IMAGE": "localhost/waggle/worker:" + part, "POLLS_VERSION": polls, "PORT": "80"},
		Functions: []types.FunctionDeployment{{Service: "vote", Image: "localhost/waggle/vote:" + function}},
	}
}

// swarmWith is a docker command of a Swarm that keeps deployments, the last the newest, and runs two images.
func swarmWith(t *testing.T, part, function string, all ...Deployment) {
	t.Helper()
	var script strings.Builder
	script.WriteString("#!/bin/sh\necho \"$@\" >> \"$(dirname \"$0\")/calls\"\ncase \"$*\" in\n")
	var names []string
	for i, d := range all {
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%s%d", deploymentConfig, i+1)
		names = append(names, name)
		fmt.Fprintf(&script, "'config inspect '*' %s') echo '\"%s\"';;\n", name, base64.StdEncoding.EncodeToString(text))
	}
	fmt.Fprintf(&script, "'config ls '*) printf '%%s\\n' %s;;\n", strings.Join(names, " "))
	fmt.Fprintf(&script, "'service ls '*) echo x;;\n'service inspect '*) echo localhost/waggle/worker:%s; echo localhost/waggle/vote:%s;;\n", part, function)
	script.WriteString("'config create '*|'config rm '*) cat >/dev/null;;\n*) echo \"no answer for $*\" >&2; exit 1;;\nesac\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script.String()), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestWhatARollbackGoesTo(t *testing.T) {
	one, two := deployed("1", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "p1"), deployed("2", "cccccccccccc", "bbbbbbbbbbbb", "p2")
	two.Env["TLS_VERSION"], two.Files["tls.yml"], two.Layers = "t2", "tls", []string{"stack.yml", "tls.yml", archiveLayer}
	two.Env[archiveEnv], two.Files[archiveLayer] = "/mnt/archive", "archive"
	for name, test := range map[string]struct {
		part string // what runs
		all  []Deployment
		want string // the version; or the error
	}{
		"the one before":                  {"cccccccccccc", []Deployment{one, two}, "1"},
		"after a failed up, the last":     {"dddddddddddd", []Deployment{one, two}, "2"},
		"the only one":                    {"aaaaaaaaaaaa", []Deployment{one}, "1 is the only version"},
		"the only one, after a failed up": {"dddddddddddd", []Deployment{one}, "1"},
		"none":                            {"aaaaaaaaaaaa", nil, "the Swarm has no note of a deployment"},
	} {
		t.Run(name, func(t *testing.T) {
			swarmWith(t, test.part, "bbbbbbbbbbbb", test.all...)
			_, to, err := newTestSystem(t, nil).previous(t.Context())
			if err != nil {
				if !strings.Contains(err.Error(), test.want) {
					t.Fatalf("got %v, want %q", err, test.want)
				}
				return
			}
			if to.Version != test.want {
				t.Errorf("goes to %s, want %s", to.Version, test.want)
			}
		})
	}
	swarmWith(t, "cccccccccccc", "bbbbbbbbbbbb", one, two)
	_, to, err := newTestSystem(t, nil).previous(t.Context())
	if err != nil || to.Env["POLLS_VERSION"] != "p2" || to.Env["TLS_VERSION"] != "t2" || to.Files["tls.yml"] != "tls" || strings.Join(to.Layers, " ") != "stack.yml tls.yml archive.yml" || to.Env[archiveEnv] != "/mnt/archive" || to.Files["stack.yml"] != "1" {
		t.Errorf("polls and certificate are of now, the stack of then: %+v, %v", to, err)
	}
}

func TestTheNewestTwoDeploymentsAreKept(t *testing.T) {
	one, two := deployed("1", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "p"), deployed("2", "cccccccccccc", "bbbbbbbbbbbb", "p")
	swarmWith(t, "", "", one, two)
	s := newTestSystem(t, nil)
	if err := s.note(t.Context(), deployed("3", "dddddddddddd", "bbbbbbbbbbbb", "p")); err != nil {
		t.Fatal(err)
	}
	if got := calls(t); !strings.Contains(got, "config create --label "+ownLabel+" waggle-deployment-3 -") || !strings.Contains(got, "config rm waggle-deployment-1") || strings.Contains(got, "config rm waggle-deployment-2") {
		t.Errorf("calls %s", got)
	}
	swarmWith(t, "", "", one, two)
	renamed := two
	renamed.Version = "2 of another commit"
	if err := s.note(t.Context(), renamed); err != nil || strings.Contains(calls(t), "config create") {
		t.Errorf("what runs already is noted again: %v, %s", err, calls(t))
	}
}

func TestOnlyOldImagesOfOursArePruned(t *testing.T) {
	fakeDocker(t, map[string]string{"image rm": "", "image ls": strings.Join([]string{
		"localhost/waggle/worker:aaaaaaaaaaaa", "localhost/waggle/worker:cccccccccccc", "localhost/waggle/worker:latest", "localhost/waggle/mine:eeeeeeeeeeee",
		"worker:dddddddddddd", "debian:bookworm-slim", "<none>:<none>"}, "\n")})
	removed, err := pruneImages(t.Context(), docker.Engine{}, map[string]bool{"localhost/waggle/worker:aaaaaaaaaaaa": true})
	if got := calls(t); err != nil || removed != 1 || !strings.Contains(got, "image rm localhost/waggle/worker:cccccccccccc") || strings.Count(got, "image rm") != 1 {
		t.Errorf("%d removed, %v: %s", removed, err, got)
	}
}

// A deployment is handed over as a whole: what its layers name by path lies beside them.
func TestADeploymentIsLaidOutAsItWas(t *testing.T) {
	dir := t.TempDir()
	const script = `#!/bin/sh
for file; do case $file in */deploy/*) cd "$(dirname "$file")"; ls . ../functions; cat stack.yml postgres-ca.pem ../functions/polls.json; env | grep -E '^(PORT|SECRET_REDIS_DRAIN)='; exit;; esac; done >"$(dirname "$0")/seen"
`
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	s := newTestSystem(t, nil)
	s.polls = []byte("the polls\n")
	if err := s.state.write("redis-drain", "secret"); err != nil {
		t.Fatal(err)
	}
	d := deployed("the stack\n", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "p")
	d.Files[postgresCAFile] = "the authorities\n"
	if err := s.deploy(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"postgres-ca.pem\nstack.yml\n", "the stack\nthe authorities\nthe polls\n", "PORT=80\n", "SECRET_REDIS_DRAIN=waggle-redis-drain-"} {
		if !strings.Contains(string(seen), want) {
			t.Errorf("docker saw %q, want %q in it", seen, want)
		}
	}
}
