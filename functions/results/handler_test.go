package results

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waggle/deploy/lab/harness"
	tallystore "waggle/worker/store"
)

func TestMain(m *testing.M) {
	// The harness's guardian pipe and its servers live as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"), goleak.IgnoreAnyFunction("os.(*Process).Wait"))
}

const pollFile = `{"polls":[
	{"id":1,"slug":"pets","question":"Cats or <dogs>?","options":[{"id":1,"slug":"cats","name":"Cats"},{"id":2,"slug":"dogs","name":"Dogs"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live",
	 "organiser":"Town & co","contact":"mailto:polls@town.example","privacy":"https://town.example/privacy"},
	{"id":2,"slug":"secret","question":"Secret?","options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"first","results":"closed"},
	{"id":3,"slug":"past","question":"Past?","options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2021-01-01T00:00:00Z","mode":"last","results":"closed"}]}`

func setup(t testing.TB, d *harness.Database) *handler {
	t.Helper()
	polls, err := parsePolls([]byte(pollFile))
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHandler(context.Background(), config{
		host: d.Host(), port: uint16(d.Port()), database: d.Name(), user: "waggle_results", sslmode: "disable",
		polls: polls, voteURL: "/function/vote",
	}, slog.New(slog.DiscardHandler))
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

// fill migrates the database and counts some votes: two nodes, one of them silent for a day and short of three.
func fill(t testing.TB, d *harness.Database) {
	t.Helper()
	if _, err := tallystore.Migrate(context.Background(), d.DSN("waggle_admin")); err != nil {
		t.Fatal(err)
	}
	d.SQL(`INSERT INTO tally (poll, choice, shard, n) VALUES (1,1,0,7),(1,1,1,-2),(1,2,0,15),(1,9,0,1),(2,1,0,4242),(3,2,0,3);
		INSERT INTO drain_stream (node, inc, n, rejected, lost, added) VALUES
			('node1', '11111111-1111-4111-8111-111111111111', 40, 1, 0, 45),
			('node2', '22222222-2222-4222-8222-222222222222', 10, 0, 3, 20);
		UPDATE drain_stream SET seen_at = now() - interval '1 day' WHERE node = 'node2';
		INSERT INTO drain_gap (stream, cause, from_at, to_at) VALUES (2, 'cut', '2020-01-01 00:00:00Z', '2020-01-01 00:00:05Z')`)
}

func get(h *handler, target, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", target, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestJSON(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	d.SQL(`UPDATE drain_stream SET single = 2 * id; INSERT INTO drain_effect (stream, inserted, changed, stale, unseen) VALUES (1, 0, 0, 0, 5)`)
	w := get(setup(t, d), "/", "application/json")
	if w.Code != 200 || w.Header().Get("Cache-Control") != "public, max-age=1" {
		t.Fatalf("results = %d %v %s", w.Code, w.Header(), w.Body)
	}
	var got report
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	pets := got.Polls[0]
	if *pets.Total != 21 || *pets.Options[0].Votes != 5 || *pets.Options[1].Votes != 15 || pets.State != "open" || pets.Mode != "last" {
		t.Errorf("pets = %+v", pets)
	}
	if len(pets.Options) != 3 || pets.Options[2].ID != 9 || *pets.Options[2].Votes != 1 {
		t.Errorf("votes for an option that is gone: %+v", pets.Options)
	}
	if p := got.Polls[1]; !p.Hidden || p.Total != nil || p.Options[0].Votes != nil || strings.Contains(w.Body.String(), "4242") {
		t.Errorf("a hidden poll tells: %+v", p)
	}
	if p := got.Polls[2]; p.Hidden || *p.Total != 3 {
		t.Errorf("a closed poll = %+v", p)
	}
	l := got.Ledger
	if l.Recovered != 5 || l.Single != 2+4 || l.Streams[0].Single != 2 {
		t.Errorf("%d recovered and %d single, want 5 and 6: %+v", l.Recovered, l.Single, l.Streams)
	}
	if l.Captured != 65+5 || l.Counted != 49+5 || l.Pending != 12 || l.Rejected != 1 || l.Lost != 3 || l.Missing != 1 || l.AsOf.IsZero() || got.Stale {
		t.Errorf("ledger = %+v", l)
	}
	if len(l.Gaps) != 1 || l.Gaps[0].Node != "node2" || l.Gaps[0].ClosedAt != nil || codes(l.Reasons) != "pending silent lost gap" {
		t.Errorf("gaps = %+v, reasons %+v", l.Gaps, l.Reasons)
	}
	if len(l.Streams) != 2 || l.Streams[0].Node != "node1" || l.Streams[1].State != "missing" || l.Streams[1].Lost != 3 {
		t.Errorf("streams = %+v", l.Streams)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	d.SQL(`UPDATE drain_stream SET single = 2 WHERE id = 1; INSERT INTO drain_effect (stream, inserted, changed, stale, unseen) VALUES (1, 0, 0, 0, 1)`)
	h := setup(t, d)
	page := get(h, "/", "text/html").Body.String()
	for _, part := range []string{"Cats or &lt;dogs&gt;?", "21 votes", "71.4\u00a0%", "3 captured votes are lost", "node node2 is silent since ",
		"1 counted vote came from its copy", "2 votes were confirmed with one copy", "is shown when voting has closed", `<noscript><meta http-equiv="refresh"`, `href="/function/vote"`, "Not final"} {
		if !strings.Contains(page, part) {
			t.Errorf("the page lacks %q:\n%s", part, page)
		}
	}
	if strings.Contains(page, "4242") || strings.Contains(page, "accounted for.") {
		t.Errorf("the page tells a hidden poll, or calls lost votes accounted for:\n%s", page)
	}
	if still := get(h, "/?live=0", "text/html").Body.String(); strings.Contains(still, `http-equiv="refresh"`) || strings.Contains(still, "<script") {
		t.Error("live=0 renews itself")
	}
}

func TestRequestsThatAreWrong(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	for target, want := range map[string]int{"/": 200, "/?format=json": 200, "/?format=html": 200, "/?format=csv": 200, "/?format=xml": 400, "/x": 404,
		"/?poll=pets": 200, "/?poll=x": 404, "/?poll=x&poll=pets": 200, "/?format=xml&format=json": 200, "/?poll=%zz": 400, "/?view=sheet": 200,
		"/?receipt=": 200, "/?receipt=x": 400} {
		if w := get(h, target, ""); w.Code != want {
			t.Errorf("%s = %d, want %d", target, w.Code, want)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	if w.Code != 405 || w.Header().Get("Allow") == "" {
		t.Errorf("POST = %d", w.Code)
	}
}

func TestPostgresAway(t *testing.T) {
	t.Parallel()
	d := harness.PostgresAlone(t)
	h := setup(t, d)
	// No schema yet: there has never been a count.
	if w := get(h, "/", "application/json"); w.Code != 503 || w.Header().Get("Retry-After") == "" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("before the first count = %d %v %s", w.Code, w.Header(), w.Body)
	}
	fill(t, d)
	if w := until(t, h, func(r report) bool { return !r.Stale }); !strings.Contains(w, `"total":21`) {
		t.Fatalf("with a count = %s", w)
	}
	d.Kill()
	if w := until(t, h, func(r report) bool { return r.Stale }); !strings.Contains(w, `"total":21`) || !strings.Contains(w, `"whole":false`) {
		t.Errorf("without Postgres = %s", w)
	}
	if w := get(h, "/", "text/html"); w.Code != 200 || !strings.Contains(w.Body.String(), "cannot be read just now") {
		t.Errorf("page without Postgres = %d %s", w.Code, w.Body)
	}
	d.Restart()
	until(t, h, func(r report) bool { return !r.Stale })
}

// until follows the views to one that is as wanted, and returns it as JSON.
func until(t *testing.T, h *handler, wanted func(report) bool) string {
	t.Helper()
	late := time.After(time.Minute)
	newer := h.first
	for {
		select {
		case <-newer:
		case <-late:
			t.Fatal("no view is as wanted after a minute")
		}
		v := h.view.Load()
		if wanted(v.report) {
			return get(h, "/", "application/json").Body.String()
		}
		newer = v.newer
	}
}

func TestTheRoleMayReadNothingElse(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	for _, sql := range []string{"SELECT * FROM vote", "SELECT * FROM vote_reject", "DELETE FROM tally", "CREATE TABLE x (n int)"} {
		if _, err := h.receipts.pool.Exec(context.Background(), sql); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v, want permission denied", sql, err)
		}
	}
}
