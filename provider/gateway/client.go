package gateway

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	"waggle/provider/gateway/http1"
	"waggle/provider/settings"
)

// withinRate takes a token of the client's prefix and reports whether there was one. Inner
// connections take none: their requests were counted where they came in.
func (rq *request) withinRate() bool {
	if rq.g.limiter == nil || rq.c.inner {
		return true
	}
	return rq.g.limiter.Allow(rq.client(), rq.started.Sub(rq.g.startedAt))
}

// authorised reports whether the request carries the API's credentials.
func (rq *request) authorised() bool {
	return rq.g.cfg.Credentials.Accepts(string(rq.req.Authorization))
}

// client is the address that a request counts for. It is the peer's or, if that is a trusted proxy, the one that the
// proxy names as its peer, and so on. What stands left of an untrusted address is only that one's claim.
func (rq *request) client() netip.Addr {
	addr := rq.c.addr
	if !rq.c.proxy {
		return addr
	}
	fields := rq.req.All()
	for i := range slices.Backward(fields) {
		if fields[i].Kind != http1.ForwardedFor {
			continue
		}
		for list := rq.req.Value(&fields[i]); len(list) > 0; {
			var last []byte
			list, last = cutLast(list)
			before, err := parseHop(last)
			if err != nil {
				return addr
			}
			if addr = before; !rq.g.trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

// cutLast splits the last element off a comma-separated list.
func cutLast(list []byte) (rest, last []byte) {
	if at := bytes.LastIndexByte(list, ','); at >= 0 {
		return list[:at], list[at+1:]
	}
	return nil, list
}

// parseHop reads an element of X-Forwarded-For. Some proxies put the port behind the address.
func parseHop(element []byte) (netip.Addr, error) {
	text := strings.TrimSpace(string(element))
	addr, err := netip.ParseAddr(text)
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(text)
		addr = withPort.Addr()
	}
	return addr.Unmap(), err
}

// trusts reports whether addr is a proxy of the operator's.
func (g *Gateway) trusts(addr netip.Addr) bool {
	for _, p := range g.trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// trustedProxies reads addresses and networks such as 192.0.2.1 and 10.0.0.0/8.
func (c Config) trustedProxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); err != nil && addrErr == nil {
			p, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return nil, settings.Mistake("trusted_proxies", text, "addresses and networks such as 192.0.2.1 and 10.0.0.0/8")
		}
		all = append(all, p)
	}
	return all, nil
}
