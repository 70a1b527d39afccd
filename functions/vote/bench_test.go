package vote

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// discard is a ResponseWriter that costs nothing, so that what is counted is the function's.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }

// kinds of a vote: what a program sends, and what a browser sends from a form of the page.
var kinds = map[string]func(s *bundle) (body string, header map[string]string){
	"json": func(s *bundle) (string, map[string]string) {
		return `{"poll":"pets","choice":"cats"}`, map[string]string{"Content-Type": "application/json", "Cookie": "waggle=" + s.voter()["waggle"]}
	},
	"form": func(s *bundle) (string, map[string]string) {
		j := s.voter()
		token := s.tokenOf(j)
		form := url.Values{"poll": {"pets"}, "choice": {"cats"}, "seq": {strconv.FormatInt(token.seq, 10)}, "nonce": {s.keys.nonce(token.voter, 1, token.seq)}}
		return form.Encode(), map[string]string{"Content-Type": "application/x-www-form-urlencoded", "Cookie": "waggle=" + j["waggle"],
			"Origin": "http://vote.example", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
			"Referer": "http://vote.example/function/vote", "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
			"Accept-Language": "en-GB,en;q=0.5", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
	},
}

// mostAllocations is what one vote may cost beyond net/http, alone in its batch: eight are the Redis client's.
const mostAllocations = 12

// BenchmarkOneVote is one vote after the other, without net/http. It fails if a vote costs more allocations than it may.
func BenchmarkOneVote(b *testing.B) {
	for kind, ballot := range kinds {
		b.Run(kind, func(b *testing.B) {
			s := setup(b, nil)
			body, header := ballot(s)
			reader := strings.NewReader(body)
			r := &http.Request{Method: "POST", URL: &url.URL{Path: "/"}, Host: "vote.example", Body: io.NopCloser(reader), ContentLength: int64(len(body)), Header: http.Header{}}
			for name, value := range header {
				r.Header.Set(name, value)
			}
			w := &discard{header: http.Header{}}
			vote := func() {
				reader.Reset(body)
				clear(w.header)
				if s.ServeHTTP(w, r); w.status != http.StatusOK && w.status != http.StatusSeeOther {
					b.Fatalf("vote = %d", w.status)
				}
			}
			if n := testing.AllocsPerRun(100, vote); n > mostAllocations {
				b.Errorf("%v allocations for one vote, want at most %d", n, mostAllocations)
			}
			b.ReportAllocs()
			for b.Loop() {
				vote()
			}
		})
	}
}

// BenchmarkVotesOver64Connections is the whole function with net/http. cpu-us/vote is user and system time of this
// process. It includes 64 clients, which repeat the same bytes and parse the status alone. Redis's time is left out.
func BenchmarkVotesOver64Connections(b *testing.B) {
	const connections = 64
	for kind, ballot := range kinds {
		b.Run(kind, func(b *testing.B) {
			s := setup(b, nil)
			server := httptest.NewServer(s)
			defer server.Close()
			body, header := ballot(s)
			var raw strings.Builder
			raw.WriteString("POST / HTTP/1.1\r\nHost: vote.example\r\n")
			for name, value := range header {
				raw.WriteString(name + ": " + value + "\r\n")
			}
			raw.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
			request := []byte(raw.String())
			before := cpuTime(b)
			var clients sync.WaitGroup
			for i := range connections {
				n := b.N / connections
				if i < b.N%connections {
					n++
				}
				clients.Go(func() { sendVotes(b, server.Listener.Addr().String(), request, n) })
			}
			clients.Wait()
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/vote")
		})
	}
}

// sendVotes sends the request n times over one connection, and reads an answer to each.
func sendVotes(b *testing.B, address string, request []byte, n int) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Error(err)
		return
	}
	defer c.Close()
	answer := make([]byte, 8<<10)
	for range n {
		if _, err := c.Write(request); err != nil {
			b.Error(err)
			return
		}
		// A short answer is one write of the server.
		got, err := c.Read(answer)
		if head := string(answer[:min(got, 12)]); err != nil || head != "HTTP/1.1 200" && head != "HTTP/1.1 303" {
			b.Errorf("vote = %q, %v", answer[:got], err)
			return
		}
	}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
