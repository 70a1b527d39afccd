package ratelimit

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const begin = time.Hour

// allowed is how many of n requests at one moment pass.
func allowed(l *Limiter, client string, n int, now time.Duration) (passed int) {
	for range n {
		if l.Allow(netip.MustParseAddr(client), now) {
			passed++
		}
	}
	return passed
}

func TestBurstThenRate(t *testing.T) {
	t.Parallel()
	l := New(10, 5)
	if n := allowed(l, "192.0.2.1", 20, begin); n != 5 {
		t.Errorf("%d of 20 at once pass, want the burst of 5", n)
	}
	if n := allowed(l, "192.0.2.1", 20, begin+100*time.Millisecond); n != 1 {
		t.Errorf("%d pass after a tenth of a second, want 1 at 10 a second", n)
	}
	if n := allowed(l, "192.0.2.1", 20, begin+time.Hour); n != 5 {
		t.Errorf("%d pass after an hour, want the burst again and no more", n)
	}
	if n := allowed(l, "192.0.2.1", 20, begin); n != 0 {
		t.Errorf("%d pass when the clock goes back, want none", n)
	}
}

func TestPrefixesAreApart(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		one, other string
		same       bool
	}{
		"IPv4 /24":                  {"192.0.2.1", "192.0.2.254", true},
		"another IPv4 /24":          {"192.0.2.1", "192.0.3.1", false},
		"IPv6 /56":                  {"2001:db8:0:0ff::1", "2001:db8::1", true},
		"another IPv6 /56":          {"2001:db8:0:100::1", "2001:db8::1", false},
		"IPv4 written as IPv6":      {"::ffff:192.0.2.9", "192.0.2.1", true},
		"IPv6 with a zone":          {"fe80::1%eth0", "fe80::2", true},
		"IPv4 and IPv6 of its kind": {"32.1.13.184", "2001:db8::", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := New(1, 1)
			allowed(l, tc.one, 1, begin)
			if passes := allowed(l, tc.other, 1, begin) == 1; passes == tc.same {
				t.Errorf("after %s, %s passes: %t", tc.one, tc.other, passes)
			}
		})
	}
	l := New(1, 1)
	if !l.Allow(netip.Addr{}, begin) || l.Allow(netip.Addr{}, begin) {
		t.Error("those without an address do not share a bucket")
	}
}

// Whatever comes when, nobody gets more than burst + rate × time, and who keeps to the rate is never refused.
func TestNeverMoreThanTheRate(t *testing.T) {
	t.Parallel()
	l := New(1, 1) // for its buckets, which are large
	rapid.Check(t, func(rt *rapid.T) {
		rate, burst := rapid.IntRange(1, 1000).Draw(rt, "rate"), rapid.IntRange(1, 50).Draw(rt, "burst")
		l.interval = int64(time.Second) / int64(rate)
		l.depth = l.interval * int64(burst)
		clear(l.rows[0])
		clear(l.rows[1])
		now, passed := begin, 0
		for _, pause := range rapid.SliceOfN(rapid.IntRange(0, 200), 1, 200).Draw(rt, "pauses") {
			now += time.Duration(pause) * time.Millisecond
			passed += allowed(l, "192.0.2.1", 1, now)
		}
		if most := float64(burst) + (now-begin).Seconds()*float64(rate); float64(passed) > most+1e-6 {
			rt.Fatalf("%d passed in %s, want at most %.1f", passed, (now - begin), most)
		}
		for range 50 {
			now += time.Duration(l.interval)
			if allowed(l, "192.0.2.1", 1, now) == 0 {
				rt.Fatalf("refused although one interval had gone by since the last request")
			}
		}
	})
}

// A flood from everywhere neither grows the limiter nor shuts out everybody else.
func TestFloodOfPrefixes(t *testing.T) {
	t.Parallel()
	l := New(1, 1)
	var raw [4]byte
	for i := range uint32(20_000) {
		binary.BigEndian.PutUint32(raw[:], i<<8)
		l.Allow(netip.AddrFrom4(raw), begin)
	}
	refused := 0
	for i := range uint32(20_000) {
		binary.BigEndian.PutUint32(raw[:], 1<<31|i<<8)
		if !l.Allow(netip.AddrFrom4(raw), begin) {
			refused++
		}
	}
	// (40,000/524,288)² of 20,000 is 116, at the end; less before.
	if refused > 200 {
		t.Errorf("%d of 20,000 newcomers were refused for what others did", refused)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := New(1e9, 1<<20)
	client := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		l.Allow(client, begin)
	}
}
