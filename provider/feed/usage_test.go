package feed

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestUsageReachesTheBook(t *testing.T) {
	t.Parallel()
	book := &UsageBook{}
	h, err := NewHub(HubConfig{Waker: noWaker, Usages: book})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, h.Handler())
	c, err := NewClient(ClientConfig{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.http.CloseIdleConnections()
	want := Usage{ID: "t1", CPU: 12.5, Memory: 1 << 20}
	if err := c.ReportUsage(t.Context(), UsageReport{Replicas: []Usage{want}}); err != nil {
		t.Fatal(err)
	}
	if got, ok := book.Of("t1", time.Now()); !ok || got != want {
		t.Errorf("got %+v, %t; want %+v", got, ok, want)
	}
}

func TestUsageIsTheNewestAndGrowsOld(t *testing.T) {
	t.Parallel()
	var book UsageBook
	start := time.Unix(1e9, 0)
	report := func(after time.Duration, cpu float64, ids ...string) {
		var r UsageReport
		for _, id := range ids {
			r.Replicas = append(r.Replicas, Usage{ID: id, CPU: cpu})
		}
		book.Add(r, start.Add(after))
	}
	if _, ok := book.Of("a", start); ok {
		t.Error("an empty book knows a replica")
	}
	report(0, 1, "a", "b")
	report(5*time.Second, 2, "a") // another gateway, later
	for id, want := range map[string]float64{"a": 2, "b": 1} {
		if got, ok := book.Of(id, start.Add(usageTTL)); !ok || got.CPU != want {
			t.Errorf("%s: %+v, %t; want %g", id, got, ok, want)
		}
	}
	if got, ok := book.Of("b", start.Add(usageTTL+1)); ok {
		t.Errorf("a reading that is too old still counts: %+v", got)
	}
	report(time.Hour, 3, "c")
	if len(book.replicas) != 1 {
		t.Errorf("%d replicas are remembered after an hour, want the one of the last report", len(book.replicas))
	}
}

func TestUsageBookIsBounded(t *testing.T) {
	t.Parallel()
	var book UsageBook
	now := time.Unix(1e9, 0)
	for part := range 11 {
		r := UsageReport{Replicas: make([]Usage, maxUsages/10)}
		for i := range r.Replicas {
			r.Replicas[i].ID = fmt.Sprint(part, "-", i)
		}
		book.Add(r, now)
	}
	if len(book.replicas) != maxUsages {
		t.Errorf("%d replicas are remembered, want %d", len(book.replicas), maxUsages)
	}
	if _, ok := book.Of("0-0", now); !ok {
		t.Error("those that were there first made room")
	}
}

// What one replica says of itself costs the others nothing.
func TestImplausibleUsageIsLeftOut(t *testing.T) {
	t.Parallel()
	var book UsageBook
	now := time.Unix(1e9, 0)
	r := UsageReport{Replicas: []Usage{{ID: "less than nothing", CPU: -1}, {ID: "no number", Memory: math.NaN()}, {ID: "more than any", Memory: 1e300}, {ID: "plausible", CPU: 1}}}
	if err := r.validate(); err != nil {
		t.Fatal(err)
	}
	book.Add(r, now)
	for _, u := range r.Replicas {
		if _, ok := book.Of(u.ID, now); ok != (u.ID == "plausible") {
			t.Errorf("%s is remembered: %t", u.ID, ok)
		}
	}
}

func TestUsageReportsAreChecked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		usage Usage
		says  string
	}{
		"no id":   {Usage{}, "replicas[0].id"},
		"long id": {Usage{ID: strings.Repeat("x", maxNameLen+1)}, "replicas[0].id"},
	} {
		if err := (UsageReport{Replicas: []Usage{test.usage}}).validate(); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, test.says)
		}
	}
	if err := (UsageReport{Replicas: make([]Usage, maxUsages+1)}).validate(); err == nil {
		t.Error("a report without an end is taken")
	}
	h := newHub(t, noWaker)
	s := newServer(t, h.Handler())
	response, err := http.Post(s.URL+"/feed/usage", "application/json", strings.NewReader(`{"replicas":[{"id":""}]}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("a report that is none: %s", response.Status)
	}
}
