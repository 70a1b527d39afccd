package async

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// errForbidden means that a callback's address is not to be connected to.
var errForbidden = errors.New("not allowed for callbacks (see async_callback_networks)")

// guard keeps callbacks, whose addresses strangers choose, away from what only this machine should reach. That
// is itself, its links, and the networks it is in, which are the system's own overlays. It checks the address
// that is connected to, after the name was resolved. So a name cannot mean one thing when it is checked and
// another when it is used.
type guard struct {
	allowed []netip.Prefix
	// own lists the networks of this machine's interfaces.
	own func() ([]netip.Prefix, error)
}

// reserved are addresses that no callback has business with besides those that have a method of netip.Addr.
var reserved = []netip.Prefix{
	// This network, protocols' own, future use. ::/8 has IPv4 addresses in forms that a host or router may
	// translate (RFC 4291 §2.5.5.1, RFC 2765, RFC 8215), and nothing else in use. Teredo (RFC 4380) has them in
	// 2001::/32.
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/8"), netip.MustParsePrefix("2001::/32"),
	// Metadata services of clouds that are not link-local: Alibaba's, Azure's, Amazon's, Google's.
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::254/128"),
}

// translated are IPv6 networks whose last (NAT64, RFC 6052) or second to fifth (6to4, RFC 3056) bytes are an IPv4 address.
var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToV4 = netip.MustParsePrefix("2002::/16")
)

// control is net.Dialer's: it is called with the resolved address before each connection attempt.
func (g *guard) control(_, address string, _ syscall.RawConn) error {
	peer, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q is %w", address, errForbidden)
	}
	return g.check(peer.Addr())
}

// literal refuses a host that is written as an address and not allowed; names are judged when they are resolved.
func (g *guard) literal(host string) error {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil //nolint:nilerr // a name, then
	}
	return g.check(addr)
}

func (g *guard) check(addr netip.Addr) error {
	addr = plain(addr)
	if contains(g.allowed, addr) {
		return nil
	}
	forbidden := fmt.Errorf("address %s is %w", addr, errForbidden)
	// IsGlobalUnicast excludes unspecified, loopback, link-local and multicast addresses, and not the private networks.
	if !addr.IsGlobalUnicast() || contains(reserved, addr) {
		return forbidden
	}
	own, err := g.own()
	if err != nil {
		return fmt.Errorf("reading this machine's networks: %w: %w", err, errForbidden)
	}
	if contains(own, addr) {
		return forbidden
	}
	return nil
}

// plain is the IPv4 address where an IPv6 one only wraps that.
func plain(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if b := addr.As16(); nat64.Contains(addr) {
		return netip.AddrFrom4([4]byte(b[12:16]))
	} else if sixToV4.Contains(addr) {
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

func ownNetworks() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Prefix
	for _, a := range addrs {
		network, err := netip.ParsePrefix(a.String())
		if err != nil {
			return nil, err
		}
		own = append(own, netip.PrefixFrom(network.Addr().Unmap(), network.Bits()).Masked())
	}
	return own, nil
}
