package async

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	g := &guard{own: func() ([]netip.Prefix, error) {
		return []netip.Prefix{netip.MustParsePrefix("10.200.0.0/20"), netip.MustParsePrefix("fd00:1::/64")}, nil
	}}
	open := &guard{allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}, own: g.own}
	for addr, want := range map[string]struct{ guarded, opened bool }{
		"203.0.113.1":          {true, true},
		"192.168.1.1":          {true, true}, // private, and not ours
		"10.1.0.1":             {true, true},
		"2001:db8::1":          {true, true},
		"10.200.3.4":           {false, false}, // an overlay
		"::ffff:10.200.3.4":    {false, false},
		"64:ff9b::10.200.3.4":  {false, false}, // by way of a translator
		"2002:0ac8:0304::1":    {false, false},
		"fd00:1::9":            {false, false},
		"127.0.0.1":            {false, true},
		"127.9.9.9":            {false, true},
		"::ffff:127.0.0.1":     {false, true},
		"::1":                  {false, false},
		"0.0.0.0":              {false, false},
		"0.1.2.3":              {false, false},
		"::":                   {false, false},
		"169.254.169.254":      {false, false}, // a cloud's metadata
		"fd00:ec2::254":        {false, false},
		"100.100.100.200":      {false, false},
		"fd00:ec2::23":         {false, false},
		"fd20:ce::254":         {false, false},
		"192.0.0.192":          {false, false},
		"168.63.129.16":        {false, false},
		"::127.0.0.1":          {false, false}, // other ways to write an IPv4 address into an IPv6 one
		"::ffff:0:127.0.0.1":   {false, false},
		"64:ff9b:1::7f00:1":    {false, false},
		"2001::80ff:fffe":      {false, false},
		"64:ff9b::203.0.113.1": {true, true},
		"fe80::1%eth0":         {false, true},
		"224.0.0.1":            {false, false},
		"ff02::1":              {false, false},
		"255.255.255.255":      {false, false},
		"240.0.0.1":            {false, false},
	} {
		for guard, ok := range map[*guard]bool{g: want.guarded, open: want.opened} {
			err := guard.control("tcp", net.JoinHostPort(addr, "80"), nil)
			if (err == nil) != ok || err != nil && !errors.Is(err, errForbidden) {
				t.Errorf("%s (allowed: %v): %v, want allowed %v", addr, guard.allowed, err, ok)
			}
		}
	}
	broken := &guard{own: func() ([]netip.Prefix, error) { return nil, errors.New("no interfaces") }}
	if err := broken.check(netip.MustParseAddr("203.0.113.1")); !errors.Is(err, errForbidden) {
		t.Errorf("without knowing the own networks: %v", err)
	}
}

func TestOwnNetworksHoldLoopback(t *testing.T) {
	t.Parallel()
	own, err := ownNetworks()
	if err != nil || !contains(own, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("got %v, %v", own, err)
	}
}

// The name is judged by the address that is connected to, so it does not help a name to mean this machine.
func TestGuardLooksAtTheAddressThatIsDialled(t *testing.T) {
	t.Parallel()
	asked := false
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer s.Close()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	q := &Queue{guard: &guard{own: ownNetworks}, cfg: Config{MaxCallbacks: 1, CallbackTimeout: 10 * time.Second}}
	q.outer = q.outerTransport()
	defer q.outer.CloseIdleConnections()
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"} {
		a := q.deliver(context.Background(), &entry{id: "c"}, &result{resultHead: resultHead{Callback: "http://" + host + ":" + port}})
		if !errors.Is(a.err, errForbidden) {
			t.Errorf("%s: %+v", host, a)
		}
	}
	if asked {
		t.Error("the server was asked")
	}
}

func FuzzGuard(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "[::ffff:7f00:1]:80", "[64:ff9b::7f00:1]:1", "[fe80::1%lo]:1", "x", ":80"} {
		f.Add(s)
	}
	g := &guard{own: func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil }}
	f.Fuzz(func(t *testing.T, address string) {
		if g.control("tcp", address, nil) != nil {
			return
		}
		peer, err := netip.ParseAddrPort(address)
		if addr := plain(peer.Addr()); err != nil || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() ||
			netip.MustParsePrefix("10.0.0.0/8").Contains(addr) {
			t.Errorf("%s passes", address)
		}
	})
}
