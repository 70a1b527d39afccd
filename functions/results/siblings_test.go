package results

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"waggle/deploy/lab/harness"
)

// A replica that starts while Postgres is away shows what a sibling knows, and nothing that is hidden.
func TestAReplicaThatStartsWithoutPostgresAsksItsSiblings(t *testing.T) {
	t.Parallel()
	d := harness.PostgresAlone(t)
	fill(t, d)
	old := setup(t, d)
	<-old.first
	d.Kill()
	siblings := httptest.NewServer(old)
	t.Cleanup(siblings.Close)
	c := config{host: d.Host(), port: uint16(d.Port()), database: d.Name(), user: "waggle_results", sslmode: "disable", polls: old.polls}
	start := func(address string) *handler {
		c := c
		c.siblings = address
		h, err := newHandler(context.Background(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := h.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
		return h
	}
	told := until(t, start(strings.Replace(siblings.URL, "127.0.0.1", "localhost", 1)+"/"), func(r report) bool { return r.Stale })
	if !strings.Contains(told, `"total":21`) || !strings.Contains(told, `"lost":3`) || strings.Contains(told, "4242") {
		t.Errorf("a new replica tells %s", told)
	}
	// One without siblings says that it knows nothing; so does one whose siblings know nothing.
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answerUnavailable(w, variant{format: formatJSON, lang: languages[0]})
	}))
	t.Cleanup(empty.Close)
	for name, address := range map[string]string{"none": "", "empty": empty.URL + "/"} {
		if w := get(start(address), "/", "text/html"); w.Code != 503 || !strings.Contains(w.Body.String(), "no earlier count is known here") {
			t.Errorf("siblings %s = %d %s", name, w.Code, w.Body)
		}
	}
}

// What a sibling does not tell stays hidden, even when the poll has closed meanwhile.
func TestACountFromASibling(t *testing.T) {
	t.Parallel()
	polls, err := parsePolls([]byte(pollFile))
	if err != nil {
		t.Fatal(err)
	}
	before := &count{asOf: closing, votes: map[choice]int64{{1, 1}: 5, {2, 1}: 4242, {3, 2}: 3}, streams: []stream{{Node: "n", State: streamActive, Captured: 8, Counted: 8}}}
	told := newReport(polls, before, closing, false).count(polls)
	got := newReport(polls, told, polls[1].Closes, true)
	if *got.Polls[0].Total != 5 || *got.Polls[2].Total != 3 || got.Ledger.Counted != 8 {
		t.Errorf("told: %+v", got)
	}
	if p := got.Polls[1]; !p.Hidden || p.Total != nil || p.Final {
		t.Errorf("a poll that the sibling hid: %+v", p)
	}
}
