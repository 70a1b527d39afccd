package machines

import (
	"errors"
	"strings"
	"testing"
	"time"

	"waggle/deploy/inventory"
	"waggle/deploy/machines/report"
)

func described(name, address string, roles ...inventory.Role) inventory.Machine {
	return inventory.Machine{Name: name, SSH: "deploy@203.0.113.1", Address: address, Roles: roles}
}

func TestEachFindingNamesMachineFindingAndRemedy(t *testing.T) {
	t.Parallel()
	sound := report.Facts{
		HostName: "m1", Addresses: []string{"127.0.0.1", "10.0.0.1"}, Routes: []string{"10.0.0.0/24"},
		EngineVersion: "20.10.24+dfsg1", FreeBytes: 10 << 30,
	}
	network := inventory.Network{Pool: "10.200.0.0/13"}
	if findings := checkFacts(described("m1", "10.0.0.1"), sound, network); len(findings) > 0 {
		t.Fatalf("a sound machine: %v", errors.Join(findings...))
	}
	cases := map[string]struct {
		spoil func(*report.Facts)
		want  string
	}{
		"other host name":     {func(f *report.Facts) { f.HostName = "localhost" }, `m1: its host name is "localhost". Run ` + "`sudo hostnamectl set-hostname m1`"},
		"address of no one":   {func(f *report.Facts) { f.Addresses = []string{"10.0.0.7"} }, "m1: 10.0.0.1 is not one of its addresses, which are 10.0.0.7"},
		"no engine":           {func(f *report.Facts) { f.EngineError = "dial unix /var/run/docker.sock: connect: no such file" }, "apt-get install docker.io"},
		"user without rights": {func(f *report.Facts) { f.EngineError = "dial unix: connect: permission denied" }, "Run `sudo usermod -aG docker deploy`"},
		"engine too old":      {func(f *report.Facts) { f.EngineVersion = "19.03.15" }, "its Docker engine is 19.03.15: must be 20.10 or newer"},
		"disk full":           {func(f *report.Facts) { f.FreeBytes = 100 << 20 }, "has 100 MiB free: must be 2048 or more"},
		"pool in use":         {func(f *report.Facts) { f.Routes = []string{"10.201.4.0/24"} }, "pool 10.200.0.0/13 overlaps its route to 10.201.4.0/24"},
		"address changed": {func(f *report.Facts) {
			f.Swarm = report.Swarm{LocalNodeState: "active", NodeAddr: "10.0.0.9"}
		}, "the Swarm knows it by 10.0.0.9, the inventory by 10.0.0.1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := sound
			c.spoil(&facts)
			findings := checkFacts(described("m1", "10.0.0.1"), facts, network)
			if len(findings) != 1 || !strings.Contains(findings[0].Error(), c.want) {
				t.Errorf("got %v\nwant one with %s", findings, c.want)
			}
		})
	}
}

func TestNewerEnginesAreNotTooOld(t *testing.T) {
	t.Parallel()
	for version, old := range map[string]bool{"20.10.0": false, "20.9": true, "19.03.1": true, "28.2.2": false, "29.0.0-rc.1": false, "": true} {
		if got := olderThan(version, oldestEngine); got != old {
			t.Errorf("olderThan(%q) is %v", version, got)
		}
	}
}

func TestAClockThatIsOffIsNamed(t *testing.T) {
	t.Parallel()
	m := &Machines{facts: map[*Machine]facts{}}
	for name, offset := range map[string]time.Duration{"m1": 0, "m2": 5 * time.Second, "m3": 200 * time.Millisecond} {
		machine := &Machine{Machine: described(name, "10.0.0.1")}
		m.present = append(m.present, machine)
		m.facts[machine] = facts{clockOffset: offset}
	}
	findings := m.checkClocks()
	if len(findings) != 1 || !strings.HasPrefix(findings[0].Error(), "m2: its clock is +4.8 s from the others'. Run `sudo timedatectl") {
		t.Errorf("got %v", findings)
	}
}

func TestBlockedWaysAreNamedByPortAndDirection(t *testing.T) {
	t.Parallel()
	findings := wayFindings("m1", report.Reached{
		Blocked: map[string][]report.Port{"m2": {{Number: 7946, Protocol: "udp"}}},
		Largest: map[string]int{"m3": 1330},
	}, 1450)
	got := errors.Join(findings...).Error()
	for _, want := range []string{
		"m1 → m2: port 7946/udp does not answer. Let m1 reach it in the firewall of m2",
		"m1 → m3: overlay packets of 1450 bytes do not get through. Set network: mtu to 1330",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\nlacks %s", got, want)
		}
	}
}

func TestLabelsAreSetAndRemoved(t *testing.T) {
	t.Parallel()
	machine := described("m1", "10.0.0.1", inventory.Manager, inventory.Edge, inventory.Capture)
	args := labelChanges(machine, map[string]string{"waggle.edge": "true", "waggle.store": "true", "other": "kept"})
	if got, want := strings.Join(args, " "), "--label-add waggle.capture=true --label-rm waggle.store"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if args := labelChanges(machine, map[string]string{"waggle.edge": "true", "waggle.capture": "true", "waggle.draining": "true"}); strings.Join(args, " ") != "--label-rm waggle.draining" {
		t.Errorf("a drain that was given up: %v", args)
	}
	if args := labelChanges(machine, map[string]string{"waggle.edge": "true", "waggle.capture": "true"}); len(args) > 0 {
		t.Errorf("labels that are right are changed: %v", args)
	}
}
