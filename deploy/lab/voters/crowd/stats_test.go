package crowd

import (
	"strings"
	"testing"
	"time"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	s := newStats()
	s.Finished.Store(7)
	s.Pages.Store(10)
	s.Posts.Store(12)
	s.Acked.Store(9)
	s.status(503)
	s.status(503)
	s.status(9999)
	s.faults[faultTimeout].Add(1)
	s.posted(2 * time.Millisecond)
	ticks, over := make(chan time.Time), make(chan struct{})
	var out strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Progress(&out, 20, ticks, over)
	}()
	now := time.Now().Add(time.Second)
	ticks <- now
	ticks <- now.Add(2 * time.Second)
	close(over)
	<-done
	lines := strings.Split(out.String(), "\n")
	for _, want := range []string{"voters 7/20", "sent 22", "acked 9", "p50 2.00ms", "errors 503:2 odd:1 timeout:1"} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%q lacks %q", lines[0], want)
		}
	}
	if !strings.Contains(lines[1], "acked 9 (0/s)") || !strings.Contains(lines[1], "p50 0.00ms") {
		t.Errorf("the second line is not about the second tick alone: %q", lines[1])
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0.00ms", 1234 * time.Microsecond: "1.23ms", 12345 * time.Microsecond: "12ms", 2500 * time.Millisecond: "2.50s",
	} {
		if got := Short(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
