package chain

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var hiddenField = regexp.MustCompile(`name="(seq|nonce)" value="([^"]*)"`)

// One voter presses twenty times at once, now this and now that, in forms and by JSON. That is one vote: the one with the highest
// order key. The tally is one more, whatever was counted before what.
func TestOneVoterPressesTwentyTimesAtOnce(t *testing.T) {
	s := start(t)
	s.work()
	for round := range 5 {
		page, html := s.get("/vote?poll=pets", "", "Accept", "text/html")
		cookie, _, _ := strings.Cut(page.Header.Get("Set-Cookie"), ";")
		form := url.Values{"poll": {"pets"}}
		for _, field := range hiddenField.FindAllStringSubmatch(html, -1) {
			form.Set(field[1], field[2])
		}
		var presses sync.WaitGroup
		for i := range 20 {
			choice := []string{"cats", "dogs"}[i%2]
			presses.Go(func() {
				kind, body, want := "application/json", fmt.Sprintf(`{"poll":"pets","choice":%q}`, choice), 200
				if i%4 >= 2 {
					ballot := url.Values{"choice": {choice}}
					for name, value := range form {
						ballot[name] = value
					}
					kind, body, want = "application/x-www-form-urlencoded", ballot.Encode(), 303
				}
				if answer, text := s.send("POST", "/vote", cookie, body, "Content-Type", kind); answer.StatusCode != want {
					t.Errorf("press %d: %s %s", i, answer.Status, text)
				}
			})
		}
		presses.Wait()
		if want := 20 * (round + 1); s.captured() != want {
			t.Errorf("%d votes captured, want %d", s.captured(), want)
		}
		s.counted()
		if rows := s.db.SQL("SELECT count(*) FROM vote WHERE poll = 1"); rows != strconv.Itoa(round+1) {
			t.Fatalf("%s rows after %d voters", rows, round+1)
		}
		if sum := s.db.SQL("SELECT sum(n) FROM tally WHERE poll = 1"); sum != strconv.Itoa(round+1) {
			t.Errorf("the tally is %s after %d voters", sum, round+1)
		}
		if wrong := s.db.SQL("SELECT count(*) FROM (SELECT choice, count(*) AS n FROM vote WHERE poll = 1 GROUP BY choice) v FULL JOIN (SELECT choice, sum(n) AS n FROM tally WHERE poll = 1 GROUP BY choice) t USING (choice) WHERE coalesce(v.n, 0) <> coalesce(t.n, 0)"); wrong != "0" {
			t.Errorf("tally and rows differ in %s choices", wrong)
		}
	}
	s.checkWinners()
}

var entryLines = regexp.MustCompile(`(?m)^(\d+)-(\d+)\np\n1\nv\n(\S+)\nc\n(\d+)\ns\n(\d+)\nt\n(\d+)$`)

// checkWinners compares the row of every voter with the entry of theirs that is highest by sequence, time and place.
func (s *system) checkWinners() {
	s.t.Helper()
	type entry [4]int64 // sequence, time, and the two parts of the id
	best, choices := map[string]entry{}, map[string]string{}
	for _, found := range entryLines.FindAllStringSubmatch(s.redis.Do("XRANGE", "votes", "-", "+"), -1) {
		var e entry
		for i, field := range []int{5, 6, 1, 2} {
			n, err := strconv.ParseInt(found[field], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			e[i] = n
		}
		was, known := best[found[3]]
		if !known || less(was, e) {
			best[found[3]], choices[found[3]] = e, found[4]
		}
	}
	rows := map[string]string{}
	for line := range strings.Lines(s.db.SQL("SELECT translate(encode(decode(replace(voter::text, '-', ''), 'hex'), 'base64'), '+/=', '-_'), choice, seq, ts FROM vote")) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), "|")
		rows[name] = rest
	}
	for voter, e := range best {
		if want := fmt.Sprintf("%s|%d|%d", choices[voter], e[0], e[1]); rows[voter] != want {
			s.t.Errorf("voter %s has %q, want %q", voter, rows[voter], want)
		}
	}
}

func less(a, b [4]int64) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}
