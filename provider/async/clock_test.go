package async

import (
	"net/http"
	"testing"
	"time"

	"waggle/provider/queued"
)

// Pauses last as long as they should, however the machine's clock is set.
func TestClockThatIsPutRightDelaysNothing(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"forward": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			s.cfg.MaxRetryAttempts = 1
			functions := &sink{}
			s.serve(func(w http.ResponseWriter, r *http.Request) {
				if functions.note(r)%2 == 1 { // the function, and the callback, once each
					w.WriteHeader(500)
				}
			})
			q, err := New(s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			q.clock.wall = q.clock.wall.Add(-by) // as if that had happened since
			life := s.start(q)
			life.enqueue(t, call("c", func(c *queued.Call) { c.Callback = "http://gateway/callback" }))
			s.holds([5]int64{})
			if n := len(functions.all()); n != 4 {
				t.Errorf("%d requests, want a call and its callback twice each", n)
			}
		})
	}
}
