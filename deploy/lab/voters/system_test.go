package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// keyLine is the secret of the system below; derived is poll 1's key by the rule of functions/vote.
const keyLine = "poll:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// faults are ways to break a promise. The zero value keeps all of them.
type faults struct {
	ackOnly, dropRow, arrivalOrder, swapChoice, ghost, doubleTally, countRefused, sharedCookie bool
	// failFirst answers each ballot's first attempt with 503, cutFirst captures it and closes the connection.
	failFirst, cutFirst, neverOpen bool
	// freeze swallows each voter's first press; when the voter has pressed something else, it is stored after all. byThaw gives it
	// the time of that moment.
	freeze, byThaw bool
	// loseDisk loses the disk on which votes are captured, when the crowd is half through. What no worker had read is
	// counted from copies. ackFirst acknowledges a vote before its copy is made. noGap does not report that votes may
	// have vanished, and whole says that all are accounted for.
	loseDisk, ackFirst, noGap, whole bool
	lost, pending, shownMore         int
}

// captured is a vote that no worker has read.
type captured struct {
	name   string
	seq    int64
	choice int
	copied bool
}

type counted struct {
	seq    int64
	choice int
}

// system keeps the contract of functions/vote and of the ledger in one process: page, JSON, cookie, nonce and
// sequence. At /books it serves what the judge's SQL would return.
type system struct {
	*httptest.Server
	faults faults
	// onVote, if set, is called with each vote that arrives.
	onVote func()

	mu    sync.Mutex // guards all below
	rows  map[string]counted
	tally map[int]int
	added int
	tried map[string]bool
	ghost byte
	// frozen are each voter's swallowed press. unread are votes on the disk, while it may be lost; voted is how many there were.
	frozen           map[string]captured
	unread           []captured
	voted, recovered int
	gaps             int
}

func newSystem(t *testing.T, f faults) *system {
	t.Helper()
	s := &system{faults: f, rows: map[string]counted{}, tally: map[int]int{}, tried: map[string]bool{}, frozen: map[string]captured{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /function/vote", s.show)
	mux.HandleFunc("POST /function/vote", s.vote)
	mux.HandleFunc("GET /books", s.books)
	mux.HandleFunc("GET /function/results", s.results)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func sign(text string) string {
	return base64.RawURLEncoding.EncodeToString(mac([]byte("signing"), text))
}

func pseudonym(voter string) string {
	key, _ := hex.DecodeString(strings.TrimPrefix(keyLine, "poll:"))
	return hex.EncodeToString(mac(mac(key, "waggle/v1/poll/1"), voter)[:16])
}

func setToken(w http.ResponseWriter, voter string, seq int64) {
	text := fmt.Sprintf("v1.%s.%d.%d.k1", voter, seq, time.Now().Add(time.Hour).Unix())
	w.Header().Add("Set-Cookie", "waggle="+text+"."+sign(text)+"; Path=/; HttpOnly")
}

func readToken(r *http.Request) (voter string, seq int64, ok bool) {
	cookie, err := r.Cookie("waggle")
	if err != nil {
		return "", 0, false
	}
	dot := strings.LastIndexByte(cookie.Value, '.')
	parts := strings.Split(cookie.Value, ".")
	if len(parts) != 6 || sign(cookie.Value[:dot]) != cookie.Value[dot+1:] {
		return "", 0, false
	}
	seq, err = strconv.ParseInt(parts[2], 10, 64)
	return parts[1], seq, err == nil
}

func (s *system) show(w http.ResponseWriter, r *http.Request) {
	if s.faults.neverOpen {
		http.Error(w, "closed", http.StatusServiceUnavailable)
		return
	}
	voter, seq, ok := readToken(r)
	if !ok {
		var id [16]byte
		_, _ = rand.Read(id[:])
		if s.faults.sharedCookie {
			id = [16]byte{}
		}
		voter, seq = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), 0
	}
	seq++ // each page that is shown has a sequence above every earlier one
	setToken(w, voter, seq)
	if strings.Contains(r.Header.Get("Accept"), "json") {
		fmt.Fprint(w, `{"polls":[]}`)
		return
	}
	fmt.Fprintf(w, `<!doctype html><form action="/search"><input type="hidden" name="poll" value="pets"></form>
		<form METHOD="Post" action="?poll=%[1]s"><input type=hidden name=poll value=%[1]s><input type="hidden" name="seq" value="%[2]d">
		<input type="hidden" name="nonce" value="k1.%[3]s&amp;"><button name="choice" value="cats">Cats</button></form>`,
		r.URL.Query().Get("poll"), seq, sign(fmt.Sprint(voter, seq)))
}

func (s *system) vote(w http.ResponseWriter, r *http.Request) {
	if s.onVote != nil {
		s.onVote()
	}
	voter, seq, ok := readToken(r)
	var ballot struct{ Poll, Choice string }
	api := r.Header.Get("Content-Type") == "application/json"
	if api {
		ok = ok && json.NewDecoder(r.Body).Decode(&ballot) == nil
	} else {
		ballot.Poll, ballot.Choice = r.FormValue("poll"), r.FormValue("choice")
		form, err := strconv.ParseInt(r.FormValue("seq"), 10, 64)
		ok = ok && err == nil && r.FormValue("nonce") == "k1."+sign(fmt.Sprint(voter, form))+"&"
		seq = max(seq, form)
	}
	choice := map[string]int{"cats": 1, "dogs": 2}[ballot.Choice]
	if !ok || ballot.Poll != "pets" || choice == 0 || r.Header.Get("Origin") != s.URL {
		http.Error(w, "no valid ballot", http.StatusForbidden)
		return
	}
	switch s.capture(voter, seq, choice) {
	case http.StatusServiceUnavailable:
		http.Error(w, "press again", http.StatusServiceUnavailable)
		return
	case http.StatusForbidden:
		http.Error(w, "no", http.StatusForbidden)
		return
	case 0:
		panic(http.ErrAbortHandler)
	}
	setToken(w, voter, seq+1)
	if api {
		fmt.Fprintf(w, `{"status":"recorded","seq":%d,"receipt":"r1.x"}`, seq)
		return
	}
	w.Header().Set("Location", "?poll=pets")
	w.WriteHeader(http.StatusSeeOther)
}

// capture is Redis, worker and Postgres. It returns the answer's status, 0 for none.
func (s *system) capture(voter string, seq int64, choice int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ballot := s.faults, fmt.Sprint(voter, seq, choice)
	first := !s.tried[ballot]
	s.tried[ballot] = true
	if first && f.failFirst {
		return http.StatusServiceUnavailable
	}
	if f.ackOnly {
		return http.StatusOK
	}
	name := pseudonym(voter)
	if f.freeze {
		held, known := s.frozen[name]
		if !known {
			s.frozen[name] = captured{name, seq, choice, false}
			return 0
		}
		if held.choice != choice || held.seq != seq {
			s.added++
			defer s.thaw(held)
		}
	}
	if f.loseDisk {
		s.onDisk(captured{name, seq, choice, !f.ackFirst})
		return http.StatusOK
	}
	s.added++
	if f.swapChoice {
		choice = 3
	}
	if f.ghost {
		s.ghost++
		s.count(fmt.Sprintf("%032x", s.ghost), 1, choice)
	}
	if !f.dropRow {
		s.count(name, seq, choice)
	}
	switch {
	case f.countRefused:
		return http.StatusForbidden
	case first && f.cutFirst:
		return 0
	}
	return http.StatusOK
}

// thaw stores a press that was swallowed. Its time is that at which the gateway got it, before any other press of its voter.
func (s *system) thaw(held captured) {
	if row, known := s.rows[held.name]; known && row.seq >= held.seq && !(s.faults.byThaw && row.seq == held.seq) {
		return
	}
	s.count(held.name, held.seq, held.choice)
}

// onDisk captures a vote on the disk that is going to be lost, and loses it with the 35th vote. A worker reads every 10.
func (s *system) onDisk(vote captured) {
	for i := range s.unread {
		s.unread[i].copied = true // copies of earlier votes have been made by now
	}
	s.unread = append(s.unread, vote)
	switch s.voted++; {
	case s.voted == 35:
		for _, v := range s.unread {
			if v.copied {
				s.added++
				s.recovered++
				s.count(v.name, v.seq, v.choice)
			}
		}
		s.unread = nil
		if s.gaps = 1; s.faults.noGap {
			s.gaps = 0
		}
	case s.voted%10 == 0:
		s.drain()
	}
}

func (s *system) drain() {
	for _, v := range s.unread {
		s.added++
		s.count(v.name, v.seq, v.choice)
	}
	s.unread = nil
}

// count is the worker's statement: the greater sequence wins, and among equals the later capture.
func (s *system) count(name string, seq int64, choice int) {
	was, known := s.rows[name]
	if known && was.seq > seq && !s.faults.arrivalOrder {
		return
	}
	if known {
		s.tally[was.choice]--
	}
	s.tally[choice]++
	if s.faults.doubleTally {
		s.tally[choice]++
	}
	s.rows[name] = counted{seq, choice}
}

func (s *system) books(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	now := time.Now().UnixMicro()
	fmt.Fprintf(w, "copies,0b0b,%d,0,0,0,,,,\n", s.recovered)
	for range s.gaps {
		fmt.Fprint(w, "gap,1,1,,,,,,,\n")
	}
	fmt.Fprintf(w, "stream,0b0b,n1,active,%d,%d,%d,0,%d,%d\n", s.added, s.added-s.faults.pending, s.faults.pending, s.faults.lost*min(s.added, 1), now)
	fmt.Fprintf(w, "now,%d,,,,,,,,\nend,%d,,,,,,,,\n", now, len(s.rows))
	counts := map[int]int{}
	for name, row := range s.rows {
		fmt.Fprintf(w, "vote,%s,%d,%d,,,,,,\n", name, row.seq, row.choice)
		counts[row.choice]++
	}
	for choice, n := range counts {
		fmt.Fprintf(w, "count,1,%d,%d,,,,,,\n", choice, n)
	}
	for choice, n := range s.tally {
		fmt.Fprintf(w, "tally,1,%d,%d,,,,,,\n", choice, n)
	}
}

// results is functions/results with one poll, and with options on the ballot alone.
func (s *system) results(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cats := s.tally[1] + s.faults.shownMore
	fmt.Fprintf(w, `{"polls":[{"id":1,"options":[{"id":1,"votes":%d},{"id":2,"votes":%d}]},{"id":2,"options":[{"id":1,"votes":null}]}],
		"ledger":{"counted":%d,"whole":%v}}`, cats, s.tally[2], s.added-s.faults.pending, s.gaps == 0 && s.faults.lost == 0 || s.faults.whole)
}

// args are the command line for this system.
func (s *system) args(t *testing.T, more string) []string {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "voter-keys")
	if err := os.WriteFile(keys, []byte("# test\n"+keyLine+"\nk1:00\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A binary under the race detector would sleep for a second before it ends.
	psql := fmt.Sprintf("GORACE=atexit_sleep_ms=0 %s=%s/books '%s'", booksVariable, s.URL, binary)
	return append([]string{
		"-url", s.URL + "/function/vote", "-results", s.URL + "/function/results", "-polls", "testdata/polls.json", "-voter-keys", keys, "-psql", psql,
		"-drain-every", "1ms", "-concurrency", "8", "-voters", "60", "-seed", "1", "-timeout", "30s",
	}, strings.Fields(more)...)
}
