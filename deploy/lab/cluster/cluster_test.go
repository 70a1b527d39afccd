package cluster

import (
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	"waggle/deploy/inventory"
)

func valid() Config {
	return Config{Name: "it", Nodes: 3, Image: "waggle/node:x", StateDir: "/run/waggle"}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*Config)
		want   string
	}{
		"valid":              {func(*Config) {}, ""},
		"upper case":         {func(c *Config) { c.Name = "Mine" }, `cluster name "Mine"`},
		"shell in the name":  {func(c *Config) { c.Name = "a;b" }, `cluster name "a;b"`},
		"name too long":      {func(c *Config) { c.Name = strings.Repeat("a", 31) }, "1 to 30 characters"},
		"negative nodes":     {func(c *Config) { c.Nodes = -1 }, "cluster nodes -1: must be 1 to 100"},
		"too many nodes":     {func(c *Config) { c.Nodes = 101 }, "cluster nodes 101"},
		"no image":           {func(c *Config) { c.Image = "" }, "cluster image is empty"},
		"reserved port":      {func(c *Config) { c.PortBase = 80 }, "cluster port base 80: must be 1024 to 65435"},
		"port over the end":  {func(c *Config) { c.PortBase = 65500 }, "cluster port base 65500"},
		"relative directory": {func(c *Config) { c.StateDir = "state" }, `"state": must be an absolute path`},
		"socket path":        {func(c *Config) { c.StateDir = "/" + strings.Repeat("d", 90) }, "at most 107 are possible"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := valid()
			test.change(&config)
			err := config.withDefaults().validate()
			if test.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestEveryPartHasANodeToRunOn(t *testing.T) {
	t.Parallel()
	for nodes := 1; nodes <= 5; nodes++ {
		count := map[inventory.Role]int{}
		for i := 1; i <= nodes; i++ {
			for _, role := range roles(i, nodes) {
				count[role]++
			}
		}
		want := map[inventory.Role]int{
			inventory.Manager: 1, inventory.Edge: nodes, inventory.Worker: 1, inventory.Store: 1, inventory.Capture: max(1, nodes-1),
		}
		if !maps.Equal(count, want) {
			t.Errorf("%d nodes: roles %v, want %v", nodes, count, want)
		}
	}
}

func TestPortsAreFreeOrNamedWhenTaken(t *testing.T) {
	t.Parallel()
	config := valid()
	ports, err := config.ports()
	if err != nil {
		t.Fatal(err)
	}
	if len(ports) != 3 || ports[0] == ports[1] || ports[1] == ports[2] || ports[0] == ports[2] {
		t.Errorf("ports are %v, want three different ones", ports)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	config.Nodes, config.PortBase = 1, listener.Addr().(*net.TCPAddr).Port-1
	if _, err := config.ports(); err == nil || !strings.Contains(err.Error(), "for the gateway of node1 is taken") {
		t.Errorf("got %v, want the taken port by name", err)
	}
}

func TestInnerAddressesNeverMeetThoseOfTheNodes(t *testing.T) {
	t.Parallel()
	bridges := netip.MustParsePrefix("10.88.0.0/16")
	local, _, _ := strings.Cut(strings.TrimPrefix(localPool, "base="), ",")
	for _, pool := range []string{overlayPool, local} {
		if overlapsAny(bridges, []netip.Prefix{netip.MustParsePrefix(pool)}) {
			t.Errorf("pool %s overlaps the bridges %s", pool, bridges)
		}
	}
	if overlapsAny(netip.MustParsePrefix(overlayPool), []netip.Prefix{netip.MustParsePrefix(local)}) {
		t.Error("the inner pools overlap each other")
	}
	last := subnet{netip.MustParsePrefix("10.88.7.0/24")}.host(maxNodes)
	if !last.IsValid() || last.String() != "10.88.7.110" {
		t.Errorf("the last node has address %s, want 10.88.7.110", last)
	}
}
