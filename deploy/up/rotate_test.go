package up

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func credentialNamed(t *testing.T, name string) credential {
	t.Helper()
	i := slices.IndexFunc(credentials, func(c credential) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("there is no credential %s", name)
	}
	return credentials[i]
}

// At each step every client's password is one that servers took in the step before already, and so while both are updated.
func TestServersTakeWhatClientsHaveAtEachStep(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"basic-auth-password", "redis-drain", "redis-queue", "redis-capture"} {
		c, s := credentialNamed(t, name), state{t.TempDir()}
		if err := s.write(name, "old"); err != nil {
			t.Fatal(err)
		}
		steps := []func(state, values) error{func(state, values) error { return nil }, state.prepare, state.change, state.close}
		var before values
		restarts := 0
		for i, move := range steps {
			v, err := s.values(c)
			if err == nil {
				err = move(s, v)
			}
			if err == nil {
				v, err = s.values(c)
			}
			if err != nil {
				t.Fatal(err)
			}
			// What the Swarm has of the step before is known to be ours.
			if i > 0 && !slices.Contains(v.everyForm(), before.accepted()) {
				t.Errorf("%s, step %d: %q in the Swarm would be taken for somebody else's", name, i, before.accepted())
			}
			if i > 0 {
				for _, server := range []values{before, v} {
					for _, client := range []values{before, v} {
						if !slices.Contains(strings.Split(server.accepted(), "\n"), client.presented()) || !slices.Contains(strings.Split(server.ordered(), "\n"), client.presented()) {
							t.Errorf("%s, step %d: a server with %q meets a client with %q", name, i, server.accepted(), client.presented())
						}
					}
				}
				if before.accepted() != v.accepted() {
					restarts++
				}
			}
			before = v
		}
		if before.current == "old" || before.accepted() != before.current || restarts != 2 {
			t.Errorf("%s: %+v after %d changes of servers, want a new value alone after 2", name, before, restarts)
		}
	}
}

// A run that ends between two writes is continued by the next, to the same new value.
func TestAnInterruptedRotationGoesOn(t *testing.T) {
	t.Parallel()
	c := credentialNamed(t, "redis-drain")
	for name, files := range map[string]map[string]string{
		"before the change": {"": "old", nextFile: "new"},
		"first write":       {"": "old", nextFile: "new", previousFile: "old"},
		"second write":      {"": "new", nextFile: "new", previousFile: "old"},
		"before the close":  {"": "new", previousFile: "old"},
		"before the end":    {"": "new", closedFile: "old"},
	} {
		s := state{t.TempDir()}
		for suffix, value := range files {
			if err := s.write(c.name+suffix, value); err != nil {
				t.Fatal(err)
			}
		}
		for i, move := range []func(state, values) error{state.prepare, state.change, state.close} {
			v, err := s.values(c)
			if err == nil {
				err = move(s, v)
			}
			if err == nil {
				v, err = s.values(c)
			}
			if err != nil {
				t.Fatal(err)
			}
			if i < 2 && v.closed == "" && v.accepted() != "new\nold" {
				t.Errorf("%s, step %d: servers take %q", name, i, v.accepted())
			}
		}
		left, err := os.ReadDir(s.dir)
		if got, _ := s.read(c.name); err != nil || got != "new" || len(left) != 2 {
			t.Errorf("%s: ends with %q and %d files, %v", name, got, len(left), err)
		}
	}
}

func TestAServerOfOnePasswordGetsItWithItsClients(t *testing.T) {
	t.Parallel()
	c := credentialNamed(t, "postgres-drain")
	v := values{credential: c, current: "new", previous: "old"}
	if v.accepted() != "new" || v.presented() != "new" {
		t.Errorf("servers take %q, clients have %q", v.accepted(), v.presented())
	}
	// The server may be somebody else's: who changes it there has to log in once more with the one before.
	if before := v.forms()["SECRET_POSTGRES_DRAIN_BEFORE"]; before != "old" || !slices.Contains(v.everyForm(), before) {
		t.Errorf("the one before is %q", before)
	}
	// An `up` after an interruption finds the secret of the step before in the Swarm.
	old := values{credential: c, current: "old"}
	if !slices.Contains(v.everyForm(), old.accepted()) {
		t.Error("the Swarm's secret of before would be taken for somebody else's")
	}
}

func TestVoterKeysAreAddedThenMovedUp(t *testing.T) {
	t.Parallel()
	c, s := credentialNamed(t, "voter-keys"), state{t.TempDir()}
	if err := s.write(c.name, "# ours\npoll:aa\nk7:bb\nspare:cc"); err != nil {
		t.Fatal(err)
	}
	v, err := s.values(c)
	if err == nil {
		err = s.prepare(v)
	}
	if err == nil {
		v, err = s.values(c)
	}
	if err != nil || !strings.HasPrefix(v.next, "k8:") || v.presented() != "# ours\npoll:aa\nk7:bb\nspare:cc\n"+v.next {
		t.Fatalf("first every replica must know it: %+v, %v", v, err)
	}
	added := v.next
	if err := s.change(v); err != nil {
		t.Fatal(err)
	}
	if v, err = s.values(c); err != nil || v.presented() != "# ours\npoll:aa\n"+added+"\nk7:bb\nspare:cc" || v.next != "" {
		t.Errorf("then it signs: %+v, %v", v, err)
	}
	// A crash between the two writes of the change.
	if v.next = added; strings.Count(v.presented(), added) != 1 {
		t.Errorf("a key is there twice: %q", v.presented())
	}
	if err := s.write(c.name, "poll:aa\n"+strings.Repeat("k1:bb\n", maxVoterKeys)); err != nil {
		t.Fatal(err)
	}
	if err := s.mayRotate(c); err == nil || !strings.Contains(err.Error(), "has 8 keys already") {
		t.Errorf("a ninth key: %v", err)
	}
}

func TestRotatableSecretsAreNamed(t *testing.T) {
	t.Parallel()
	all, err := rotatable("all")
	if err != nil || len(all) != 9 {
		t.Errorf("all are %d, %v", len(all), err)
	}
	for _, wrong := range []string{"", "basic-auth-user", "summary-key", "x"} {
		if _, err := rotatable(wrong); err == nil || !strings.Contains(err.Error(), `must be one of all, basic-auth-password, redis-capture`) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestFunctionsWithAnEarlierSecretAreWaitedFor(t *testing.T) {
	for inspected, want := range map[string]string{
		"vote openfaas-fn.redis-capture.10 openfaas-fn.polls.1": "",
		"vote openfaas-fn.redis-capture.9 openfaas-fn.polls.1":  "function vote does not have the newest value of secret openfaas-fn.redis-capture yet",
		"plain": "",
	} {
		fakeDocker(t, map[string]string{"secret ls": "openfaas-fn.redis-capture.9\nopenfaas-fn.redis-capture.10\nopenfaas-fn.polls.1", "service ls": "id", "service inspect": inspected})
		err := newTestSystem(t, nil).functionsHaveSecrets(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %q", inspected, err, want)
		}
	}
}

// A state directory of before a rotation must not be deployed over it.
func TestAStateThatTheSwarmHasLeftBehindIsRefused(t *testing.T) {
	s := newTestSystem(t, nil)
	fakeDocker(t, map[string]string{"secret ls": "", "secret create": "id"})
	if _, err := s.ensureCredentials(t.Context()); err != nil {
		t.Fatal(err)
	}
	fakeDocker(t, map[string]string{"secret ls": "redis-drain waggle-redis-drain-0123456789ab", "secret create": "id"})
	if _, err := s.ensureCredentials(t.Context()); err == nil || !strings.Contains(err.Error(), "the Swarm has another redis-drain than") {
		t.Errorf("got %v", err)
	}
	fakeDocker(t, map[string]string{"secret ls": " waggle-redis-drain", "secret create": "id"})
	if _, err := s.ensureCredentials(t.Context()); err != nil {
		t.Errorf("a secret of before there were versions: %v", err)
	}
}

// The stack's files and the list of credentials say the same of who has what.
func TestStackHasTheSecretsOfTheList(t *testing.T) {
	t.Parallel()
	type reference struct{ source, target string }
	want := map[string][]reference{}
	for _, c := range credentials {
		for _, name := range c.servers {
			want[name] = append(want[name], reference{c.name + "-accepted", c.name})
		}
		for _, name := range c.clients {
			want[name] = append(want[name], reference{c.name, c.name})
		}
		for _, name := range c.setters {
			want[name] = append(want[name], reference{c.name + "-accepted", c.name + "-now"}, reference{c.name + "-before", c.name + "-before"})
		}
		for _, name := range c.peers {
			want[name] = append(want[name], reference{c.name + "-ordered", c.name})
		}
	}
	got := map[string][]reference{}
	files, err := filepath.Glob("../*.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var stack struct {
			Services map[string]struct{ Secrets []yaml.Node }
		}
		if err := yaml.Unmarshal(text, &stack); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for service, v := range stack.Services {
			for _, node := range v.Secrets {
				var long struct{ Source, Target string }
				if node.Kind == yaml.ScalarNode {
					long.Source, long.Target = node.Value, node.Value
				} else if err := node.Decode(&long); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				if long.Source != "registry-config" && !strings.HasPrefix(long.Source, "tls-") {
					got[service] = append(got[service], reference{long.Source, long.Target})
				}
			}
		}
	}
	order := func(a, b reference) int { return strings.Compare(a.source, b.source) }
	for _, name := range slices.Sorted(maps.Keys(want)) {
		slices.SortFunc(want[name], order)
		slices.SortFunc(got[name], order)
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s has %v, the list says %v", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("services with secrets: %d, want %d", len(got), len(want))
	}
}
