package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"waggle/deploy/docker"
)

// The address plan. Bridges of clusters come from 10.88.0.0/16, one /24 each. What the inner engines allocate
// lies below, so that no container gets another node's address.
const (
	overlayPool = "10.64.0.0/12" // overlays of the inner Swarm: 256 networks
	overlayMask = "20"           // each for 4,000 tasks: the default /24 leaves tasks waiting when it is full
	localPool   = "base=10.80.0.0/14,size=24"
)

// bridgeMTU is that of the bridge between the nodes. Its packets never leave the machine, and an overlay's packets of
// 1,500 bytes with their headers must fit whatever the outside takes.
const bridgeMTU = "1500"

type subnet struct{ netip.Prefix }

// host returns the address of node i; .1 is the bridge itself.
func (s subnet) host(i int) netip.Addr {
	address := s.Addr().As4()
	address[3] = byte(10 + i)
	return netip.AddrFrom4(address)
}

// createNetwork makes the bridge on the first free subnet. Another cluster may take the same one between the look and
// the creation: the engine then refuses, and the next is tried.
func createNetwork(ctx context.Context, config Config) (subnet, error) {
	taken, err := takenPrefixes(ctx, config)
	if err != nil {
		return subnet{}, err
	}
	var refused error
	for third := range 256 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, byte(third), 0}), 24)
		if overlapsAny(prefix, taken) {
			continue
		}
		_, err := config.Engine.Run(ctx, "network", "create", "--driver", "bridge", "--subnet", prefix.String(),
			"--opt", "com.docker.network.driver.mtu="+bridgeMTU, "--label", clusterLabel+"="+config.Name, config.networkName())
		if err == nil {
			return subnet{prefix}, nil
		}
		if !strings.Contains(err.Error(), "overlaps") {
			return subnet{}, fmt.Errorf("creating network %s: %w", config.networkName(), err)
		}
		refused = err
	}
	return subnet{}, fmt.Errorf("creating network %s: no /24 of 10.88.0.0/16 is free: %w", config.networkName(), refused)
}

func (c Config) networkName() string { return c.Name + "-nodes" }

// takenPrefixes lists what is in use on the machine: its interfaces' networks and those of the engine.
func takenPrefixes(ctx context.Context, config Config) ([]netip.Prefix, error) {
	var taken []netip.Prefix
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			taken = append(taken, prefix.Masked())
		}
	}
	ids, err := config.Engine.Run(ctx, "network", "ls", "--quiet", "--filter", "driver=bridge")
	if err != nil {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	for _, id := range strings.Fields(ids) {
		// A network may go while we look.
		subnets, err := config.Engine.Run(ctx, "network", "inspect", "--format", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", id)
		if err != nil {
			continue
		}
		for _, text := range strings.Fields(subnets) {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				taken = append(taken, prefix.Masked())
			}
		}
	}
	return taken, nil
}

func overlapsAny(prefix netip.Prefix, taken []netip.Prefix) bool {
	for _, other := range taken {
		if prefix.Overlaps(other) {
			return true
		}
	}
	return false
}

// outsideMTU returns the largest packet the machine's containers may send to the outside, as its engine is configured.
func outsideMTU(ctx context.Context, engine docker.Engine) (int, error) {
	text, err := engine.Run(ctx, "network", "inspect", "--format", "{{json .Options}}", "bridge")
	if err != nil {
		return 0, fmt.Errorf("reading the engine's MTU: %w", err)
	}
	var options map[string]string
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		return 0, fmt.Errorf("reading the engine's MTU: %w", err)
	}
	if mtu, err := strconv.Atoi(options["com.docker.network.driver.mtu"]); err == nil && mtu >= 576 {
		return mtu, nil
	}
	return 1500, nil
}
