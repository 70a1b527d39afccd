package results

import (
	"fmt"
	"strings"
	"testing"

	"waggle/deploy/lab/harness"
)

const (
	incarnation1 = "11111111-1111-4111-8111-111111111111"
	incarnation2 = "22222222-2222-4222-8222-222222222222"
	// voterText is the pseudonym of sixteen bytes 0x01 in base64url.
	voterText = "AQEBAQEBAQEBAQEBAQEBAQ"
)

func receiptText(poll int, seq int64, incarnation, entry string) string {
	return fmt.Sprintf("r2.%d.%s.%d.%s.%s.AAAAAAAAAAAAAAAA.k1.%s", poll, voterText, seq, incarnation, entry, strings.Repeat("A", 43))
}

// eid is the order key of an entry, as worker/store has it.
func eid(ms, counter int64, stream int) string {
	return fmt.Sprintf("%012x%012x%08x", ms, counter, stream)
}

func TestReceiptStates(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	vote := func(poll int, seq int64, key string) string {
		return fmt.Sprintf(`INSERT INTO vote (poll, voter, choice, seq, ts, eid) VALUES (%d, '%s', 1, %d, 1, '%s')`, poll, strings.Repeat("01", 16), seq, key)
	}
	pos := func(node, pos string) string {
		return fmt.Sprintf(`UPDATE drain_stream SET pos = '%s' WHERE node = '%s'`, pos, node)
	}
	// Streams 1 and 2 are those of node1, which is read, and of node2, which is silent and lost three entries.
	tests := map[string]struct {
		setup   []string
		receipt string
		state   string
		page    string
	}{
		"counted":               {[]string{vote(1, 2, eid(100, 1, 1)), pos("node1", "100-1")}, receiptText(1, 2, incarnation1, "100-1"), "counted", "This vote is counted."},
		"replaced":              {[]string{vote(1, 3, eid(120, 0, 2)), pos("node1", "100-1")}, receiptText(1, 2, incarnation1, "100-1"), "replaced", "A later vote"},
		"replaced before read":  {[]string{vote(1, 3, eid(120, 0, 2))}, receiptText(1, 2, incarnation1, "100-1"), "replaced", "A later vote"},
		"first counts":          {[]string{vote(2, 1, eid(90, 0, 1)), pos("node1", "100-1")}, receiptText(2, 2, incarnation1, "100-1"), "replaced", "the first vote counts"},
		"first, not yet read":   {[]string{vote(2, 3, eid(190, 0, 1))}, receiptText(2, 2, incarnation1, "100-1"), "waiting", "waits to be counted"},
		"waiting":               {[]string{pos("node1", "100-0")}, receiptText(1, 2, incarnation1, "100-1"), "waiting", "waits to be counted"},
		"a node nobody has met": {nil, receiptText(1, 2, "33333333-3333-4333-8333-333333333333", "100-1"), "waiting", "waits to be counted"},
		"the node is silent":    {nil, receiptText(1, 2, incarnation2, "100-1"), "unreachable", "node2, which cannot be reached since "},
		"rejected": {[]string{`INSERT INTO vote_reject (stream, id, raw, reason) VALUES (1, '100-1', 'x', 'y')`, pos("node1", "100-1")},
			receiptText(1, 2, incarnation1, "100-1"), "rejected", "no valid vote"},
		"passed and not there":     {[]string{pos("node1", "100-1")}, receiptText(1, 2, incarnation1, "100-1"), "lost", "This vote is lost"},
		"the node is written off":  {[]string{`UPDATE drain_stream SET state = 'retired' WHERE node = 'node2'`}, receiptText(1, 2, incarnation2, "100-1"), "lost", "This vote is lost"},
		"the log was cut":          {[]string{`UPDATE drain_stream SET lost = 5, added = n + 5 WHERE node = 'node1'`}, receiptText(1, 2, incarnation1, "100-1"), "lost", "This vote is lost"},
		"spaces and breaks pasted": {[]string{vote(1, 2, eid(100, 1, 1)), pos("node1", "100-1")}, " " + receiptText(1, 2, incarnation1, "100-1")[:40] + "\n " + receiptText(1, 2, incarnation1, "100-1")[40:], "counted", "counted"},
	}
	for name, test := range tests {
		d.SQL(`TRUNCATE vote, vote_reject; UPDATE drain_stream SET state = 'active', pos = '0-1', lost = CASE node WHEN 'node2' THEN 3 ELSE 0 END, added = CASE node WHEN 'node2' THEN 20 ELSE 45 END;
			UPDATE drain_stream SET seen_at = now() WHERE node = 'node1'`) // the cases together take longer than a node may be silent
		for _, sql := range test.setup {
			d.SQL(sql)
		}
		target := "/?receipt=" + strings.NewReplacer(" ", "%20", "\n", "%0A").Replace(test.receipt)
		if w := get(h, target, "application/json"); w.Code != 200 || !strings.Contains(w.Body.String(), `"state":"`+test.state+`"`) || strings.Contains(w.Body.String(), "choice") {
			t.Errorf("%s = %d %s, want %s", name, w.Code, w.Body, test.state)
		}
		if w := get(h, target, "text/html"); w.Code != 200 || !strings.Contains(w.Body.String(), test.page) {
			t.Errorf("%s: the page lacks %q:\n%s", name, test.page, w.Body)
		}
	}
}

func TestReceiptsThatAreNone(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	h := setup(t, d)
	good := receiptText(1, 2, incarnation1, "100-1")
	for name, test := range map[string]struct {
		receipt string
		want    int
	}{
		"a short reference":  {"7K3M-Q2ZD", 400},
		"too short":          {strings.TrimSuffix(good, "."+strings.Repeat("A", 43)), 400},
		"an older form":      {"r1" + good[2:], 400},
		"no voter":           {strings.Replace(good, voterText, "x", 1), 400},
		"no incarnation":     {strings.Replace(good, incarnation1, "x", 1), 400},
		"an entry too large": {receiptText(1, 2, incarnation1, "281474976710656-0"), 400},
		"no entry":           {receiptText(1, 2, incarnation1, "100"), 400},
		"another poll":       {receiptText(77, 2, incarnation1, "100-1"), 404},
		"much too long":      {good + strings.Repeat("A", 1000), 400},
	} {
		if w := get(h, "/?receipt="+test.receipt, "application/json"); w.Code != test.want || !strings.Contains(w.Body.String(), `"status":"error"`) {
			t.Errorf("%s = %d %s, want %d", name, w.Code, w.Body, test.want)
		}
	}
	for range maxLookups {
		h.receipts.slots <- struct{}{}
	}
	if w := get(h, "/?receipt="+good, "text/html"); w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "try again in a few seconds") {
		t.Errorf("one look-up too many = %d %s", w.Code, w.Body)
	}
}

// FuzzReceipt: whatever is pasted is refused or is a receipt within the bounds of the order key.
func FuzzReceipt(f *testing.F) {
	f.Add(receiptText(1, 2, incarnation1, "100-1"))
	f.Add("r2.1..1.x.1-1...")
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := parseReceipt(text)
		if ok && (r.poll < 1 || len(r.voter) != 32 || r.ms < 0 || r.ms >= 1<<48 || r.counter < 0 || r.counter >= 1<<48 || len(r.incarnation) != 36) {
			t.Errorf("%q is %+v", text, r)
		}
	})
}
