// Package report is what the probe program on a machine and the deploy program tell each other, as JSON.
package report

import "time"

// OverlayOverhead is what VXLAN adds to a packet of an overlay: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14 bytes.
const OverlayOverhead = 50

// Port is a port that Swarm needs between machines.
type Port struct {
	Number   int
	Protocol string // "tcp" or "udp"
}

// SwarmPorts are the ports of https://docs.docker.com/engine/swarm/swarm-tutorial/: management, which only managers
// have, node discovery, and the overlays' packets.
var SwarmPorts = []Port{{2377, "tcp"}, {7946, "tcp"}, {7946, "udp"}, {4789, "udp"}}

// Facts is what a machine says of itself.
type Facts struct {
	HostName string
	// Architecture is Go's name of it.
	Architecture string
	// Clock is the machine's time while it answered.
	Clock time.Time
	// Addresses are those of its interfaces; Routes the networks it reaches without its default route, in CIDR form.
	Addresses, Routes []string
	// EngineError says why the engine did not answer; the fields below are then empty.
	EngineError   string
	EngineVersion string
	// FreeBytes is the room on the engine's disk.
	FreeBytes uint64
	Swarm     Swarm
}

// Swarm is a machine's membership, in the engine's words.
type Swarm struct {
	LocalNodeState   string
	NodeID           string
	NodeAddr         string
	ControlAvailable bool
	Cluster          *struct{ ID string }
}

// Active reports whether the machine is a member of a Swarm.
func (s Swarm) Active() bool { return s.LocalNodeState == "active" }

// Listening says which of SwarmPorts the probe answers on. Another program holds the others, such as an engine that
// is already in a Swarm.
type Listening struct{ Ports []Port }

// Reach asks a machine to try the ports of others.
type Reach struct {
	// MTU is that of the overlays.
	MTU     int
	Targets []Target
}

// Target is a machine to reach.
type Target struct {
	Name, Address string
	// Ports are those on which a probe or an engine answers there.
	Ports []Port
}

// Reached is what came of it.
type Reached struct {
	// Blocked lists ports without an answer, by target's name.
	Blocked map[string][]Port
	// Largest is the size of the largest overlay packet that got through to a target, where that is less than the MTU.
	Largest map[string]int
}

// Join asks a machine's engine to become a member of a Swarm. It is sent on standard input: a token that is an
// argument could be read by every user of the machine.
type Join struct {
	ListenAddr, AdvertiseAddr, DataPathAddr, JoinToken string
	RemoteAddrs                                        []string
}
