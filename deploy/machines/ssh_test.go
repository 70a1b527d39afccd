package machines

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waggle/deploy/inventory"
)

// ssh itself says what it makes of the configuration.
func TestWhoKnowsAMachinesHostKey(t *testing.T) {
	t.Parallel()
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHbmWm3l4HkFkSWRxWbTPKSxqpzRmNnnZAnqvGDnSGnO"
	cases := map[string]struct {
		hostKey, knownHosts string
		wantFile, wantAlias string
	}{
		"the inventory":           {hostKey: key, knownHosts: "/keys/known", wantFile: "DIR/known_hosts", wantAlias: "m1"},
		"a file of the inventory": {knownHosts: "/keys/my known", wantFile: "/keys/my known"},
		"the operator's own file": {wantFile: "~/.ssh/known_hosts"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := newSSHDir(&inventory.Inventory{KnownHosts: c.knownHosts, Machines: []inventory.Machine{
				{Name: "m1", SSH: "deploy@203.0.113.1:2222", Address: "10.0.0.1", HostKey: c.hostKey},
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer dir.close(nil)
			out, err := exec.CommandContext(t.Context(), filepath.Join(string(dir), "ssh"), "-G", "m1").Output()
			if err != nil {
				t.Fatal(err)
			}
			settings := map[string]string{}
			for line := range strings.Lines(string(out)) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				settings[name] = value
			}
			if got := settings["userknownhostsfile"]; !strings.Contains(got, strings.TrimPrefix(strings.ReplaceAll(c.wantFile, "DIR", string(dir)), "~")) {
				t.Errorf("it is looked up in %s, want %s", got, c.wantFile)
			}
			if got := settings["hostkeyalias"]; got != c.wantAlias {
				t.Errorf("it is looked up as %q, want %q", got, c.wantAlias)
			}
			if settings["hostname"] != "203.0.113.1" || settings["port"] != "2222" || settings["stricthostkeychecking"] != "true" {
				t.Errorf("settings: %v", settings)
			}
		})
	}
}
