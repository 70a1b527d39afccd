package books

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waggle/deploy/lab/voters/judge"
)

const whole = `copies,0b0b,4,5,0,0,n2 n3,,,
stream,0b0b,n1,active,12,10,1,1,0,1700000000000000
gap,7,1,,,,,,,
gap,8,0,,,,,,,
now,1700000001000000,,,,,,,,
vote,000102030405060708090a0b0c0d0e0f,3,2,,,,,,
count,1,2,1,,,,,,
tally,1,2,1,,,,,,
end,1,,,,,,,,
`

// printing is a source whose command reads all of the SQL and prints text.
func printing(t *testing.T, text string) Source {
	t.Helper()
	file := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Command("cat >/dev/null; cat '" + file + "'")
}

func TestRead(t *testing.T) {
	t.Parallel()
	got, err := Read(t.Context(), printing(t, whole), 1)
	if err != nil {
		t.Fatal(err)
	}
	want := judge.Row{Pseudonym: judge.Pseudonym{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, Seq: 3, Choice: 2}
	if len(got.Rows) != 1 || got.Rows[0] != want {
		t.Errorf("rows %+v", got.Rows)
	}
	slot := judge.Slot{Poll: 1, Choice: 2}
	if got.Counts[slot] != 1 || got.Tally[slot] != 1 {
		t.Errorf("counts %v, tally %v", got.Counts, got.Tally)
	}
	stream := Stream{Node: "n1", State: "active", Added: 12, Counted: 10, Pending: 1, Rejected: 1, SeenAt: time.UnixMicro(1700000000000000),
		Recovered: 4, Single: 5, Unread: "n2 n3"}
	if got.Ledger.Open() != 1 || len(got.Ledger.Gaps) != 2 {
		t.Errorf("gaps %v, %d open", got.Ledger.Gaps, got.Ledger.Open())
	}
	if got.Ledger.Streams["0b0b"] != stream || !got.Ledger.Now.Equal(time.UnixMicro(1700000001000000)) {
		t.Errorf("ledger %+v", got.Ledger)
	}
}

func TestReadRefusesWhatIsNotWhole(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"nothing":                  {"", "ends before its last line"},
		"no end":                   {strings.Replace(whole, "end,1,,,,,,,,\n", "", 1), "ends before its last line"},
		"a vote is missing":        {strings.Replace(whole, "end,1,", "end,2,", 1), "1 votes arrived of 2"},
		"an unknown kind":          {whole + "BEGIN,,,,,,,,,\n", `kind "BEGIN"`},
		"a line of other fields":   {whole + "BEGIN\n", "wrong number of fields"},
		"a choice out of range":    {strings.Replace(whole, ",3,2,", ",3,40000,", 1), "out of range"},
		"a voter of fifteen bytes": {strings.Replace(whole, "000102", "0102", 1), "is not 16 bytes"},
		"a voter of more":          {strings.Replace(whole, "000102", "00000102", 1), "is not 16 bytes"},
		"no number":                {strings.Replace(whole, "count,1,2,1", "count,1,2,", 1), "invalid syntax"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Read(t.Context(), printing(t, test.text), 1)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestACommandThatFails(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ line, want string }{
		"after whole output": {"cat >/dev/null; printf '%s' '" + whole + "'; echo relation is gone >&2; exit 3", "exit status 3: relation is gone"},
		"at once":            {"echo no such role >&2; exit 2", "exit status 2: no such role"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Read(t.Context(), Command(test.line), 1)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestCopySQLNamesThePoll(t *testing.T) {
	t.Parallel()
	sql := copySQL(42, ledgerSQL, votesSQL, endSQL)
	if strings.Count(sql, "poll = 42") != 2 || strings.Contains(sql, "%!") || strings.Contains(sql, "%[") {
		t.Errorf("got %s", sql)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	before := Ledger{Streams: map[string]Stream{"a": {Node: "n1", Added: 10, Lost: 2, Single: 1}, "gone": {Node: "n2", Added: 5}},
		Gaps: map[string]bool{"1": true, "2": true}}
	after := Ledger{Streams: map[string]Stream{
		"a": {Node: "n1", Added: 15, Lost: 3, Rejected: 1, Single: 3, Closed: 2}, "b": {Node: "n1", Added: 4, Recovered: 4}, "c": {Node: "n3", Added: 1},
	}, Gaps: map[string]bool{"1": true, "2": false, "3": true}}
	got := after.Since(before)
	if got.Added != 10 || got.Rejected != 1 || got.Lost != 1+5 || got.Nodes["n1"] != 9 || got.Nodes["n3"] != 1 ||
		got.Single != 2 || got.Recovered != 4 || got.Gaps != 1 {
		t.Errorf("got %+v", got)
	}
	if open := after.Open(); open != 1+2 {
		t.Errorf("%d open, want one lost entry and two gaps", open)
	}
}

func TestBehind(t *testing.T) {
	t.Parallel()
	since := time.Unix(1000, 0).UTC()
	fresh := since.Add(time.Second)
	tests := map[string]struct {
		stream Stream
		want   string
	}{
		"counted":                {Stream{State: "active", SeenAt: fresh}, ""},
		"pending":                {Stream{Node: "n1", State: "active", Pending: 7, SeenAt: fresh}, "node n1 has 7 entries pending"},
		"not looked at since":    {Stream{Node: "n1", State: "active", SeenAt: since}, "no worker has read node n1 since 00:16:40"},
		"silent":                 {Stream{Node: "n1", State: "missing", SeenAt: since.Add(-time.Minute)}, "no worker has read node n1 since 00:15:40"},
		"retired by an operator": {Stream{State: "retired", SeenAt: since.Add(-time.Hour)}, ""},
		"replaced a moment ago":  {Stream{Node: "n1", State: "replaced", SeenAt: fresh, ClosedAt: since.Add(-time.Second)}, "node n1 was closed at 00:16:39, and its copies may not have been read since"},
		"replaced, and waited":   {Stream{Node: "n1", State: "replaced", ClosedAt: since.Add(-recovering + time.Second)}, ""},
		"replaced long ago":      {Stream{Node: "n1", State: "replaced", ClosedAt: since.Add(-time.Minute)}, ""},
		"copies out of reach":    {Stream{Node: "n1", State: "active", SeenAt: fresh, Unread: "n2"}, "the copies of node n1 on n2 have not been compared"},
		"a replaced incarnation": {Stream{State: "replaced", SeenAt: since.Add(-time.Hour), Pending: 3}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ledger := Ledger{Streams: map[string]Stream{"x": test.stream}, Now: since.Add(2 * time.Second)}
			if got := strings.Join(ledger.Behind(since), "; "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if got := (Ledger{}).Behind(since); len(got) != 1 {
		t.Errorf("an empty ledger is complete: %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add("vote,00,1,1,,,,,,\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, votes, err := parse(strings.NewReader(text))
		if err == nil && (votes < 0 || got.Ledger.Now.IsZero()) {
			t.Errorf("accepted %q", text)
		}
	})
}
