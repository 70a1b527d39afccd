package vote

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
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

// jsonVote makes requests of one voter as net/http hands them over, and sends them to the handler.
func jsonVote(tb testing.TB, b *bundle) func() {
	j := b.voter()
	const body = `{"poll":"pets","choice":"cats"}`
	reader := strings.NewReader(body)
	r := &http.Request{Method: "POST", URL: &url.URL{Path: "/"}, Host: "vote.example", Body: io.NopCloser(reader), ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/json"}, "Cookie": {"waggle=" + j["waggle"]}, "X-Forwarded-Host": {"vote.example"}}}
	w := &discard{header: http.Header{}}
	return func() {
		reader.Reset(body)
		clear(w.header)
		if b.ServeHTTP(w, r); w.status != http.StatusOK {
			tb.Fatalf("vote = %d", w.status)
		}
	}
}

func BenchmarkJSONVote(b *testing.B) {
	s := setup(b, nil)
	vote := jsonVote(b, s)
	b.ReportAllocs()
	for b.Loop() {
		vote()
	}
}

// BenchmarkVotesOver64Connections is the whole function with net/http, its clients included; cpu-us/vote is user and
// system time of this process, Redis's left out.
func BenchmarkVotesOver64Connections(b *testing.B) {
	s := setup(b, nil)
	server := httptest.NewServer(s)
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	j := s.voter()
	before := cpuTime(b)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequest("POST", server.URL, strings.NewReader(`{"poll":"pets","choice":"cats"}`))
			if err != nil {
				b.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Cookie", "waggle="+j["waggle"])
			response, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, response.Body) // read to the end, so that the connection is kept
			response.Body.Close()
			if response.StatusCode != http.StatusOK {
				b.Errorf("vote = %d", response.StatusCode)
				return
			}
		}
	})
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-us/vote")
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
