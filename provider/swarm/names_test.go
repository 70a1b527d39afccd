package swarm

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// swarmName is Swarm's own rule for the names of services.
var swarmName = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`)

func TestServiceNamesAreLegalAndDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`)
		namespace, function := name.Draw(t, "namespace"), name.Draw(t, "function")
		got := serviceName("openfaas-fn", namespace, function)
		if len(got) > maxName || !swarmName.MatchString(got) {
			t.Fatalf("%s/%s: %q is no name for a service", namespace, function, got)
		}
		id := namespace + "/" + function
		if other, found := seen[got]; found && other != id {
			t.Fatalf("%s and %s are both %q", id, other, got)
		}
		seen[got] = id
	})
}

func TestServiceName(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ namespace, function, want string }{
		"default namespace": {"openfaas-fn", "vote", "vote"},
		"other namespace":   {"dev", "vote", "dev_vote"},
		"longest that fits": {"dev", strings.Repeat("f", 59), "dev_" + strings.Repeat("f", 59)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := serviceName("openfaas-fn", test.namespace, test.function); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, legal := range map[string]bool{
		"a": true, "vote": true, "a-b": true, "0": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false, "ä": false, "a b": false, "a/b": false,
		strings.Repeat("a", 64): false, "a\n": false,
	} {
		if err := checkName("service", name); (err == nil) != legal {
			t.Errorf("checkName(%q): %v, want legal %t", name, err, legal)
		}
	}
	for name, legal := range map[string]bool{
		"key": true, "A_KEY.v1": true, "": false, ".": false, "..": false, "a/b": false, ".a": false, "a.": false, "a b": false, "a\x00": false,
	} {
		if err := checkSecretName("name", name); (err == nil) != legal {
			t.Errorf("checkSecretName(%q): %v, want legal %t", name, err, legal)
		}
	}
}

// TestReservedNamesAreTheStacks: a part that is added to the stack must be added to the list.
func TestReservedNamesAreTheStacks(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../deploy/*.yml") // the stack, and what is added to it
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	names := []string{"localhost"}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, services, _ := strings.Cut(string(text), "\nservices:\n")
		services, _, _ = strings.Cut(services, "\nnetworks:\n")
		for _, found := range regexp.MustCompile(`(?m)^  ([a-z0-9-]+):$`).FindAllStringSubmatch(services, -1) {
			names = append(names, found[1])
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if !slices.Equal(names, reservedNames) {
		t.Errorf("reserved are %v, the stack has %v", reservedNames, names)
	}
}
