package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/provider/settings"
)

// versions are the ways in which clients speak to the gateway.
var versions = []string{"http1", "https1", "h2c", "h2"}

// client is one that speaks a version, follows no redirects, and the base of its URLs.
func (e *edge) client(t testing.TB, version string, p pair) (*http.Client, string) {
	t.Helper()
	address, base := e.addr, "http://h"
	if version == "https1" || version == "h2" {
		address, base = e.cfg.TLSListener.Addr().String(), "https://h"
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.roots}, Protocols: new(http.Protocols), ExpectContinueTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}}
	transport.Protocols.SetHTTP1(version == "http1" || version == "https1")
	transport.Protocols.SetUnencryptedHTTP2(version == "h2c")
	transport.Protocols.SetHTTP2(version == "h2")
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, base
}

// eachVersion runs a test against one gateway, in every version.
func eachVersion(t *testing.T, e *edge, p pair, test func(t *testing.T, version string, client *http.Client, base string)) {
	t.Helper()
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			client, base := e.client(t, version, p)
			test(t, version, client, base)
		})
	}
}

// describe is a function that says what it was asked.
func describe(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h := r.Header
	w.Header().Set("X-Got", fmt.Sprintf("%s %s %d body=%.9s trailer=%s xff=%s xfh=%s xfp=%s cookie=%s id=%s te=%s auth=%s .", r.Method, r.RequestURI, len(body), body,
		r.Trailer.Get("X-Sum"), h.Get("X-Forwarded-For"), h.Get("X-Forwarded-Host"), h.Get("X-Forwarded-Proto"), h.Get("Cookie"), h.Get("X-Call-Id"), h.Get("Te"), h.Get("Authorization")))
	switch r.URL.Path {
	case "/trailers":
		_, _ = io.WriteString(w, "x")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-End", "yes")
	case "/long":
		for range 100 {
			_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
		}
	case "/moved":
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	case "/error":
		http.Error(w, "no", http.StatusInternalServerError)
	case "/empty":
		w.WriteHeader(http.StatusNoContent)
	case "/die":
		panic(http.ErrAbortHandler)
	case "/untyped":
		w.Header()["Content-Type"] = nil
		_, _ = io.WriteString(w, "<html>")
	default:
		_, _ = io.WriteString(w, "hello")
	}
}

// TestEveryVersionMeansTheSame sends the same requests in every version of HTTP that clients may speak.
func TestEveryVersionMeansTheSame(t *testing.T) {
	t.Parallel()
	type request struct {
		method, target string
		header         http.Header
		body           io.Reader
		trailer        http.Header
	}
	type want struct {
		status int
		got    string // within what the function says
		body   string
		length int64 // of the body, announced
		header map[string]string
	}
	field := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	unsized := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) } // the client cannot know its length
	ours := map[string]string{"X-OpenFaaS-Internal": "gateway"}
	table := map[string]func() (request, want){
		"GET": func() (request, want) {
			return request{"GET", "/function/f", nil, nil, nil}, want{200, "GET / 0 body= ", "hello", 5, nil}
		},
		"HEAD": func() (request, want) {
			return request{"HEAD", "/function/f", nil, nil, nil}, want{200, "HEAD / ", "", 5, nil}
		},
		"path as it is": func() (request, want) {
			return request{"GET", "/function/f//a%2Fb/../c%20?x=;&%7e", nil, nil, nil}, want{200, "GET //a%2Fb/../c%20?x=;&%7e 0", "hello", 5, nil}
		},
		"odd method": func() (request, want) {
			return request{"BREW", "/function/f", nil, nil, nil}, want{200, "BREW / ", "hello", 5, nil}
		},
		"short body": func() (request, want) {
			return request{"POST", "/function/f", nil, strings.NewReader("body"), nil}, want{200, "POST / 4 body=body ", "hello", 5, nil}
		},
		"long body": func() (request, want) {
			return request{"POST", "/function/f", nil, strings.NewReader(strings.Repeat("z", 900_000)), nil}, want{200, "POST / 900000 ", "hello", 5, nil}
		},
		"body of no length": func() (request, want) {
			return request{"POST", "/function/f", nil, unsized("body"), nil}, want{200, "POST / 4 body=body ", "hello", 5, nil}
		},
		"trailers to it": func() (request, want) {
			return request{"POST", "/function/f", nil, unsized("body"), field("X-Sum", "7")}, want{200, "body=body trailer=7 ", "hello", 5, nil}
		},
		"trailers from it": func() (request, want) {
			return request{"GET", "/function/f/trailers", nil, nil, nil}, want{200, "", "x", -1, map[string]string{"trailer X-End": "yes"}}
		},
		"long answer": func() (request, want) {
			return request{"GET", "/function/f/long", nil, nil, nil}, want{200, "", strings.Repeat("x", 1_000_000), -1, nil}
		},
		"cookies": func() (request, want) {
			return request{"GET", "/function/f", field("Cookie", "a=1; b=2; c=3"), nil, nil}, want{200, "cookie=a=1; b=2; c=3 ", "hello", 5, nil}
		},
		"forwarded-for": func() (request, want) {
			return request{"GET", "/function/f", field("X-Forwarded-For", "10.1.1.1", "X-Forwarded-For", "10.2.2.2"), nil, nil}, want{200, "xff=10.1.1.1, 10.2.2.2, 127.0.0.1 xfh=h ", "hello", 5, nil}
		},
		"call id": func() (request, want) {
			return request{"GET", "/function/f", field("X-Call-Id", "mine"), nil, nil}, want{200, "id=mine ", "hello", 5, map[string]string{"X-Call-Id": "mine"}}
		},
		"credentials": func() (request, want) {
			return request{"GET", "/function/f", field("Authorization", "Bearer x"), nil, nil}, want{200, "auth=Bearer x ", "hello", 5, nil}
		},
		"te stays behind": func() (request, want) {
			return request{"GET", "/function/f", field("Te", "trailers"), nil, nil}, want{200, "te= ", "hello", 5, nil}
		},
		"no content": func() (request, want) {
			return request{"GET", "/function/f/empty", nil, nil, nil}, want{204, "GET /empty ", "", 0, nil}
		},
		"redirect": func() (request, want) {
			return request{"GET", "/function/f/moved", nil, nil, nil}, want{302, "", "<a href=\"/elsewhere\">Found</a>.\n\n", 33, map[string]string{"Location": "/elsewhere"}}
		},
		"its own error": func() (request, want) {
			return request{"GET", "/function/f/error", nil, nil, nil}, want{500, "", "no\n", 3, map[string]string{"X-OpenFaaS-Internal": ""}}
		},
		"no type is guessed": func() (request, want) {
			return request{"GET", "/function/f/untyped", nil, nil, nil}, want{200, "", "<html>", 6, map[string]string{"Content-Type": ""}}
		},
		"function that dies": func() (request, want) {
			return request{"POST", "/function/f/die", nil, strings.NewReader("b"), nil}, want{502, "", "the function's connection broke: it closed before it answered\n", 62, ours}
		},
		"no such function": func() (request, want) {
			return request{"GET", "/function/nobody", nil, nil, nil}, want{404, "", "no such function\n", 17, ours}
		},
		"no such, with body": func() (request, want) {
			return request{"POST", "/function/nobody", nil, strings.NewReader(strings.Repeat("x", 500_000)), nil}, want{404, "", "no such function\n", 17, ours}
		},
		"no such page": func() (request, want) {
			return request{"GET", "/nothing", nil, nil, nil}, want{404, "", "404 page not found\n", 19, ours}
		},
		"root": func() (request, want) {
			return request{"DELETE", "/", nil, nil, nil}, want{405, "", "legal methods: GET, HEAD\n", 25, ours}
		},
		"two slashes first": func() (request, want) {
			return request{"GET", "//function/f", nil, nil, nil}, want{404, "", "404 page not found\n", 19, ours}
		},
		"API without a user": func() (request, want) {
			return request{"GET", "/system/functions", nil, nil, nil}, want{401, "", "invalid credentials\n", 20, map[string]string{"WWW-Authenticate": `Basic realm="Restricted"`}}
		},
		"body that is long": func() (request, want) {
			return request{"POST", "/function/f", field("Expect", "100-continue"), strings.NewReader(strings.Repeat("x", 1_000_001)), nil}, want{413, "", "request body is too long: legal are 1000000 bytes, the gateway's max_body_bytes\n", 80, ours}
		},
		"target that is long": func() (request, want) {
			return request{"GET", "/function/f/" + strings.Repeat("a", 8200), nil, nil, nil}, want{414, "", "request target is too long: legal are 8192 bytes, the gateway's max_uri_bytes\n", 78, ours}
		},
		"head that is long": func() (request, want) {
			return request{"GET", "/function/f", field("A", strings.Repeat("a", 17<<10)), nil, nil}, want{431, "", "request head is too long: legal are 16384 bytes, the gateway's max_header_bytes\n", 80, ours}
		},
		"many fields": func() (request, want) {
			h := http.Header{}
			for i := range 120 {
				h.Set(fmt.Sprint("F-", i), "x")
			}
			return request{"GET", "/function/f", h, nil, nil}, want{431, "", "too many header fields: legal are 100\n", 38, ours}
		},
	}
	p := newPair(t)
	e := start(t, p.secured(t, func(c *Config) {
		c.MaxBody, c.Credentials = 1_000_000, settings.Credentials{User: "s3cret", Password: "s3cret"}
	}), function("f", newReplica(t, describe)))
	eachVersion(t, e, p, func(t *testing.T, version string, client *http.Client, base string) {
		for name, make := range table {
			r, want := make()
			request, err := http.NewRequest(r.method, base+r.target, r.body)
			if err != nil {
				t.Fatal(err)
			}
			if r.header != nil {
				request.Header = r.header
			}
			request.Trailer = r.trailer
			response, err := client.Do(request)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err != nil || response.StatusCode != want.status || string(body) != want.body || response.ContentLength != want.length {
				t.Errorf("%s: got %s, %d bytes %.60q, length %d, error %v; want %d, %d bytes %.60q, length %d", name, response.Status, len(body), body, response.ContentLength, err,
					want.status, len(want.body), want.body, want.length)
			}
			if got := response.Header.Get("X-Got"); !strings.Contains(got, want.got) {
				t.Errorf("%s: the function got %q, want %q in it", name, got, want.got)
			} else if proto := "xfp=https "; want.got != "" && strings.Contains(got, proto) != strings.HasPrefix(base, "https") {
				t.Errorf("%s: the function got %q", name, got)
			}
			for key, value := range want.header {
				header := response.Header
				if rest, ok := strings.CutPrefix(key, "trailer "); ok {
					header, key = response.Trailer, rest
				}
				if header.Get(key) != value {
					t.Errorf("%s: %s is %q, want %q", name, key, header.Get(key), value)
				}
			}
			if want.status == 200 && (response.Header.Get("X-Call-Id") == "" || response.Header.Get("X-Served-By") != "waggle/dev") {
				t.Errorf("%s: got header %v", name, response.Header)
			}
			if response.ProtoMajor == 2 != strings.HasPrefix(version, "h2") {
				t.Errorf("%s: got %s", name, response.Proto)
			}
		}
	})
}

// TestBodiesOfNoLengthAreBounded: by what they hold, however much framing is around it, and also where all of it has come
// with the head.
func TestBodiesOfNoLengthAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 10
	p := newPair(t)
	e := start(t, p.secured(t, func(c *Config) { c.MaxBody = bound }), function("f", newReplica(t, describe)))
	for name, tc := range map[string]struct {
		chunks string
		status int
	}{
		"just legal":           {"5;x=yyyyyyyyyy\r\n01234\r\n5\r\n56789\r\n0\r\nX-Sum: 1\r\n\r\n", 200},
		"too long":             {"5\r\n01234\r\n6\r\n56789a\r\n0\r\n\r\n", 413},
		"too long without end": {"5\r\n01234\r\n6\r\n56789a", 413},
	} {
		resp, body := e.exchange(t, "POST /function/f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"+tc.chunks)
		if resp.StatusCode != tc.status {
			t.Errorf("%s: got %s %q, want %d", name, resp.Status, body, tc.status)
		}
	}
	eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
		for length, want := range map[int]int{bound: 200, bound + 1: 413, 100_000: 413} {
			unsized := io.MultiReader(strings.NewReader(strings.Repeat("x", length)))
			response, err := client.Post(base+"/function/f", "", unsized)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%d bytes: got %s, want %d", length, response.Status, want)
			}
		}
	})
}

// TestOddResponsesInEveryVersion: what a function may say to clients of HTTP/1.1, those of HTTP/2 get as well.
func TestOddResponsesInEveryVersion(t *testing.T) {
	t.Parallel()
	lines := func(n int) string {
		var b strings.Builder
		for i := range n {
			_, _ = fmt.Fprintf(&b, "X-F-%d: y\r\n", i)
		}
		return b.String()
	}
	p := newPair(t)
	for name, tc := range map[string]struct {
		answer           string
		status           int
		fields, trailers int // that begin with X-F-
		length           string
	}{
		"most fields":             {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + lines(99) + "\r\n", 200, 99, 0, "0"},
		"most fields and chunks":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + lines(99) + "\r\n0\r\n\r\n", 200, 99, 0, ""},
		"too many fields":         {"HTTP/1.1 200 OK\r\n" + lines(101) + "\r\n", 502, 0, 0, "71"},
		"many trailers":           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + lines(150) + "\r\n", 200, 0, 150, ""},
		"no content, with length": {"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, 0, 0, ""},
		"interim with a length":   {"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, 0, 0, "0"},
		"not modified":            {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, p.secured(t, nil), function("f", rawReplica(t, answers(tc.answer))))
			eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
					if h.Get("Content-Length") != "" {
						t.Errorf("an interim response has a length: %v", h)
					}
					return nil
				}})
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/function/f", nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				count := func(h http.Header) (n int) {
					for key := range h {
						if strings.HasPrefix(key, "X-F-") {
							n++
						}
					}
					return n
				}
				if err != nil || response.StatusCode != tc.status || count(response.Header) != tc.fields || count(response.Trailer) != tc.trailers || response.Header.Get("Content-Length") != tc.length {
					t.Errorf("got %s, error %v, %d fields, %d trailers, length %q", response.Status, err, count(response.Header), count(response.Trailer), response.Header.Get("Content-Length"))
				}
			})
		})
	}
}

func TestInterimResponsesInEveryVersion(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, nil), function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Link", "</style>")
		w.WriteHeader(http.StatusEarlyHints)
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})))
	eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
		for path, want := range map[string]string{"/": "[103 100] 200 text", "/refuse": "[] 403 "} {
			var mu sync.Mutex
			interim := []int{}
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
				mu.Lock()
				defer mu.Unlock()
				interim = append(interim, code)
				return nil
			}})
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/function/f"+path, strings.NewReader("text"))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Expect", "100-continue")
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			_ = response.Body.Close()
			mu.Lock()
			if got := fmt.Sprint(interim, " ", response.StatusCode, " ", string(body)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			mu.Unlock()
		}
	})
}

func TestStreamsBothWaysInEveryVersion(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, nil), function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 1000)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	})))
	eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
		out, in := io.Pipe()
		request, err := http.NewRequest(http.MethodPost, base+"/function/f", out)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(in, "0") }()
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		got := make([]byte, 1)
		for i := range 9 { // each piece is back before the next is sent
			if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != fmt.Sprint(i) {
				t.Fatalf("piece %d is %q, error %v", i, got, err)
			}
			_, _ = fmt.Fprint(in, i+1)
		}
		_ = in.Close()
		if rest, err := io.ReadAll(response.Body); err != nil || string(rest) != "9" {
			t.Errorf("the rest is %q, error %v", rest, err)
		}
	})
}

func TestClientThatLeavesIsNoticedInEveryVersion(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}), make(chan error)
	p := newPair(t)
	e := start(t, p.secured(t, nil), function("f", newReplica(t, untilClientLeaves(entered, left))))
	eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
		for _, path := range []string{"", "/upload"} {
			ctx, leave := context.WithCancel(t.Context())
			body, in := io.Pipe()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/function/f"+path, nil)
			if path == "/upload" {
				request, err = http.NewRequestWithContext(ctx, http.MethodPost, base+"/function/f"+path, body)
				go func() { _, _ = io.WriteString(in, "first") }()
			}
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := client.Do(request)
				done <- err
			}()
			<-entered
			leave()
			_ = in.CloseWithError(context.Canceled)
			if err := <-left; err == nil {
				t.Errorf("%q: the function saw a whole request", path)
			}
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%q: the client got %v", path, err)
			}
		}
	})
}

func TestBrokenResponseIsNeverWholeInAnyVersion(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := start(t, p.secured(t, nil), function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "100")
		}
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})))
	eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
		for _, path := range []string{"/length", "/chunks"} {
			response, err := client.Get(base + "/function/f" + path)
			if err != nil {
				continue // the break overtook the head
			}
			body, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err == nil {
				t.Errorf("%s: %q was taken for whole", path, body)
			}
		}
	})
}

func TestLateFunctionsAndClientsInEveryVersion(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	second := time.Second
	e := start(t, p.secured(t, func(c *Config) { c.UpstreamTimeout, c.ReadTimeout = second, second }), function("f", newReplica(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})))
	eachVersion(t, e, p, func(t *testing.T, _ string, client *http.Client, base string) {
		t.Parallel()
		late, err := client.Get(base + "/function/f")
		if err != nil || late.StatusCode != 504 || late.Header.Get("X-OpenFaaS-Internal") != "gateway" {
			t.Fatalf("a late function: %v, %v", late, err)
		}
		defer late.Body.Close()
		body, in := io.Pipe()
		defer in.Close()
		go func() { _, _ = io.WriteString(in, "some, and no more") }()
		request, err := http.NewRequest(http.MethodPost, base+"/function/f", body)
		if err != nil {
			t.Fatal(err)
		}
		slow, err := client.Do(request)
		if err != nil || slow.StatusCode != 408 {
			t.Fatalf("a late client: %v, %v", slow, err)
		}
		_ = slow.Body.Close()
	})
}

// TestShutdownLosesNoStream stops a gateway that is asked all the time. Every request that the function has seen is
// answered, and a client that gets no answer knows that it may ask elsewhere.
func TestShutdownLosesNoStream(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"h2c", "h2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			var seen, answered atomic.Int64
			p := newPair(t)
			e := start(t, p.secured(t, func(c *Config) { c.ShutdownDelay = time.Millisecond }), function("f", newReplica(t, func(w http.ResponseWriter, r *http.Request) {
				seen.Add(1)
				body, _ := io.ReadAll(r.Body)
				_, _ = w.Write(body)
			})))
			client, base := e.client(t, version, p)
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					for i := 0; ; i++ {
						response, err := client.Post(base+"/function/f", "", strings.NewReader(strings.Repeat("x", i%5*1000)))
						if err != nil {
							if refused := new(net.OpError); !errors.As(err, &refused) || refused.Op != "dial" {
								t.Errorf("lost: %v", err)
							}
							return
						}
						body, err := io.ReadAll(response.Body)
						_ = response.Body.Close()
						if err != nil || response.StatusCode != 200 || len(body) != i%5*1000 {
							t.Errorf("lost: %s, %d bytes, %v", response.Status, len(body), err)
							return
						}
						answered.Add(1)
					}
				})
			}
			for answered.Load() < 500 {
				time.Sleep(time.Millisecond)
			}
			e.stop()
			group.Wait()
			if seen.Load() != answered.Load() {
				t.Errorf("the function saw %d requests, %d were answered", seen.Load(), answered.Load())
			}
		})
	}
}
