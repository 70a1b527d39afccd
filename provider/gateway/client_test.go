package gateway

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRateLimit(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(http.ResponseWriter, *http.Request) {})
	e := start(t, func(c *Config) { c.RateLimit, c.RateBurst = 0.001, 3 }, function("f", r))
	const get = "GET /function/f HTTP/1.1\r\nHost: h\r\n"
	c, in := e.dial(t)
	for n, want := range []int{200, 200, 200, 429, 429} {
		// Nobody can speak for others unless the operator trusts them.
		_, _ = fmt.Fprintf(c, "%sX-Forwarded-For: 203.0.%d.1\r\n\r\n", get, n)
		resp, body := readResponse(t, in, "GET")
		if resp.StatusCode != want {
			t.Fatalf("request %d is %s %q, want %d", n, resp.Status, body, want)
		}
		if want == 429 && (resp.Header.Get("Retry-After") == "" || resp.Header.Get("X-OpenFaaS-Internal") != "gateway" || !strings.Contains(body, "0.001 a second")) {
			t.Errorf("refused with %v %q", resp.Header, body)
		}
	}
	for _, path := range []string{"/healthz", "/system/functions"} {
		_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp, _ := readResponse(t, in, "GET"); (resp.StatusCode == 429) != (path != "/healthz") {
			t.Errorf("%s is %s", path, resp.Status)
		}
	}
	// A call from within was counted where it came in.
	if resp, err := e.within(t).Get("http://gateway/function/f"); err != nil || resp.StatusCode != 200 {
		t.Errorf("from within: %v %v", resp, err)
	}
}

func TestClientBehindProxies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ trusted, fields, want string }{
		"nobody is trusted":               {"", "X-Forwarded-For: 203.0.113.1\r\n", "127.0.0.1"},
		"somebody else is trusted":        {"192.0.2.0/24", "X-Forwarded-For: 203.0.113.1\r\n", "127.0.0.1"},
		"proxy without a word":            {"127.0.0.1", "", "127.0.0.1"},
		"proxy":                           {"127.0.0.1", "X-Forwarded-For: 203.0.113.1\r\n", "203.0.113.1"},
		"what the client claims":          {"127.0.0.0/8", "X-Forwarded-For: 198.51.100.9, 203.0.113.1\r\n", "203.0.113.1"},
		"two proxies":                     {"127.0.0.1,10.0.0.0/8", "X-Forwarded-For: 198.51.100.9, 203.0.113.1 ,10.1.1.1\r\n", "203.0.113.1"},
		"in two fields":                   {"127.0.0.1,10.0.0.0/8", "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: 10.1.1.1\r\n", "203.0.113.1"},
		"only proxies":                    {"127.0.0.1,10.0.0.0/8", "X-Forwarded-For: 10.1.1.2, 10.1.1.1\r\n", "10.1.1.2"},
		"nonsense":                        {"127.0.0.1", "X-Forwarded-For: 203.0.113.1, unknown\r\n", "127.0.0.1"},
		"empty":                           {"127.0.0.1", "X-Forwarded-For: \r\n", "127.0.0.1"},
		"IPv6 and a port":                 {"127.0.0.1", "X-Forwarded-For: [2001:db8::1]:4711\r\n", "2001:db8::1"},
		"IPv4 written as IPv6, trusted":   {"127.0.0.1,10.0.0.0/8", "X-Forwarded-For: 203.0.113.1, ::ffff:10.1.1.1\r\n", "203.0.113.1"},
		"IPv6 network of proxies trusted": {"127.0.0.1,2001:db8::/32", "X-Forwarded-For: 203.0.113.1, 2001:db8::7\r\n", "203.0.113.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, err := New(Config{ProviderURL: "http://p", TrustedProxies: strings.FieldsFunc(tc.trusted, func(r rune) bool { return r == ',' })})
			if err != nil {
				t.Fatal(err)
			}
			c := &conn{g: g}
			c.from("127.0.0.1:5")
			rq := request{c: c, g: g}
			raw := []byte("GET / HTTP/1.1\r\nHost: h\r\n" + tc.fields + "\r\n")
			if _, perr := rq.req.Parse(raw, 1000); perr != nil {
				t.Fatal(perr.Reason)
			}
			if got := rq.client(); got.String() != tc.want {
				t.Errorf("the client is %s, want %s", got, tc.want)
			}
		})
	}
}

// FuzzForwardedFor: whatever proxies send, the client's address is valid, and one that was not trusted by itself.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"203.0.113.1", "a, b", ",,", "[::1]:1, 10.0.0.1", "10.0.0.1%eth0"} {
		f.Add(s)
	}
	g, err := New(Config{ProviderURL: "http://p", TrustedProxies: []string{"127.0.0.1", "10.0.0.0/8"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c := &conn{g: g}
		c.from("127.0.0.1:5")
		rq := request{c: c, g: g}
		if n, perr := rq.req.Parse([]byte("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: "+value+"\r\n\r\n"), 1000); perr != nil || n == 0 {
			return
		}
		if got := rq.client(); !got.IsValid() {
			t.Fatalf("%q gives no address", value)
		}
	})
}
