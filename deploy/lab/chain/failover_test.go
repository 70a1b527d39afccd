package chain

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"waggle/deploy/lab/harness"
)

// The primary dies under votes, and a standby that has not received the newest commits takes over at another address. The
// worker and the results page follow it, and what it lacks is read again from Redis: no vote is lost or counted twice.
func TestAStandbyThatLagsIsPromoted(t *testing.T) {
	primary := harness.PostgresAlone(t)
	standby := primary.Standby()
	hosts := primary.Host() + "," + standby.Host()
	s := startOn(t, primary, hosts, fmt.Sprintf("host=%s port=%d dbname=%s user=waggle_drain sslmode=disable target_session_attrs=read-write", hosts, primary.Port(), primary.Name()))
	s.work()

	var voters sync.WaitGroup
	var acknowledged atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		voters.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				page, _ := s.get("/vote?poll=pets", "")
				cookie, _, _ := strings.Cut(page.Header.Get("Set-Cookie"), ";")
				answer, text := s.send("POST", "/vote", cookie, `{"poll":"pets","choice":"cats"}`, "Content-Type", "application/json")
				if answer.StatusCode != 200 {
					t.Errorf("vote: %s %s", answer.Status, text)
					return
				}
				acknowledged.Add(1)
			}
		})
	}
	const counted = "SELECT coalesce(sum(n), 0) FROM tally"
	more := func(db *harness.Database, than string) func() bool {
		return func() bool { return number(t, db.SQL(counted)) > number(t, than)+100 }
	}
	s.until("the standby has votes", more(standby, "0"))
	standby.CutOff()
	s.until("the primary is ahead", more(primary, standby.SQL(counted)))
	primary.Kill()
	lacked := standby.SQL(counted)
	standby.Promote()
	s.db = standby
	s.until("counting goes on", more(standby, lacked))
	close(stop)
	voters.Wait()

	s.counted()
	if got, want := number(t, standby.SQL("SELECT count(*) FROM vote")), acknowledged.Load(); got != want || number(t, standby.SQL(counted)) != want {
		t.Errorf("%d rows and a tally of %s, want %d", got, standby.SQL(counted), want)
	}
	if lost := standby.SQL("SELECT sum(lost) FROM drain_stream"); lost != "0" {
		t.Errorf("%s votes lost", lost)
	}
	s.until("the results follow", func() bool {
		_, text := s.get("/results?format=json&poll=pets", "")
		var shown struct{ Polls []struct{ Total int64 } }
		err := json.Unmarshal([]byte(text), &shown)
		return err == nil && len(shown.Polls) == 1 && shown.Polls[0].Total == acknowledged.Load()
	})
}

func number(t *testing.T, text string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatalf("%q is no number: %v", text, err)
	}
	return n
}
