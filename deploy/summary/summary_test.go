package summary

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const results = `{"stale":false,"polls":[
	{"id":1,"slug":"pets","question":"Cats or dogs?","final":true,"hidden":false,"reasons":[],"options":[{"id":1,"name":"Cats <&>","votes":3},{"id":2,"name":"Dogs","votes":1234567}]},
	{"id":2,"slug":"open","question":"Open?","final":false,"hidden":true,"reasons":[{"code":"open"}],"options":[{"id":1,"name":"Yes","votes":null}]}],
	"ledger":{"captured":1234575,"counted":1234575,"pending":0,"rejected":0,"lost":0,"whole":true}}`

func recount(t *testing.T, change ...string) Recount {
	t.Helper()
	text := `{"at":"2026-05-16T21:02:00Z","votes":1234575,"inserted":1234575,"polls":[
		{"poll":1,"votes":{"1":3,"2":1234567},"tally":{"1":3,"2":1234567},"digest":"d1"},{"poll":2,"votes":{"1":5},"tally":{"1":5},"digest":"d2"}],"faults":[]}`
	var r Recount
	if err := json.Unmarshal([]byte(strings.NewReplacer(change...).Replace(text)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func explain(raw json.RawMessage) ([]string, error) {
	if strings.Contains(string(raw), "open") {
		return []string{"voting is open"}, nil
	}
	return nil, nil
}

func make1(t *testing.T) Summary {
	t.Helper()
	s, err := Make([]byte(results), recount(t), "", explain)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPrint(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	make1(t).Print(&out)
	want := `Cats or dogs?
FINAL
   1.    1,234,567  > 99.9 %  Dogs
   2.            3  < 0.1 %  Cats <&>
         1,234,570  votes

Open?
NOT FINAL
  - voting is open
  hidden until voting has closed

Ledger: 1234575 captured = 1234575 counted + 0 pending + 0 rejected + 0 lost.
Recount of 1,234,575 votes on 16 May 2026, 21:02:00 UTC: rows, tally and accounts agree.
`
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant\n%s", out.String(), want)
	}
	if strings.Contains(fmt.Sprint(make1(t).Polls[1].Options), "5") {
		t.Error("the summary tells the votes of a hidden poll")
	}
}

func TestDisagreementsAreFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		results string
		recount Recount
		want    string
	}{
		"the page shows another number": {strings.Replace(results, `"votes":3`, `"votes":4`, 1), recount(t), "the results page shows 4 votes for Cats <&>, the rows are 3"},
		"the recount found a fault":     {results, recount(t, `"faults":[]`, `"faults":["poll 1 choice 2: off"]`), "poll 1 choice 2: off"},
		"Postgres is away for the page": {strings.Replace(results, `"stale":false`, `"stale":true`, 1), recount(t), "cannot read the count"},
	} {
		s, err := Make([]byte(test.results), test.recount, "", explain)
		if err != nil || !strings.Contains(strings.Join(s.Faults, "\n"), test.want) {
			t.Errorf("%s: faults %q, %v; want %q", name, s.Faults, err, test.want)
		}
	}
	if s, err := Make([]byte(results), recount(t), "pets", explain); err != nil || len(s.Polls) != 1 || len(s.Faults) != 0 {
		t.Errorf("one poll: %+v, %v", s, err)
	}
	if _, err := Make([]byte(results), recount(t), "nope", explain); err == nil || !strings.Contains(err.Error(), `"nope"`) {
		t.Errorf("a poll that is not there: %v", err)
	}
}

func TestEditsOfASignedSummaryAreFound(t *testing.T) {
	t.Parallel()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public, err := PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file, err := Sign(make1(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := Open(file, public+"\n"); err != nil || s.Polls[0].Options[0].Name != "Cats <&>" {
		t.Fatalf("opening = %+v, %v", s, err)
	}
	var tight bytes.Buffer
	if err := json.Compact(&tight, file); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(tight.Bytes(), public); err != nil {
		t.Errorf("another indentation: %v", err)
	}
	other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	resigned, err := Sign(make1(t), other)
	if err != nil {
		t.Fatal(err)
	}
	for name, edited := range map[string][]byte{
		"a number":         bytes.Replace(file, []byte("1234567"), []byte("1234568"), 1),
		"a name":           bytes.Replace(file, []byte("Dogs"), []byte("Hogs"), 1),
		"final":            bytes.Replace(file, []byte(`"final": false`), []byte(`"final": true`), 1),
		"the digest":       bytes.Replace(file, []byte(`"d1"`), []byte(`"d2"`), 1),
		"another's key":    resigned,
		"a field more":     bytes.Replace(file, []byte(`"summary": {`), []byte(`"summary": {"at":"x",`), 1),
		"a second summary": bytes.Replace(file, []byte(`"public_key"`), []byte(`"summary": {}, "public_key"`), 1),
	} {
		if bytes.Equal(edited, file) {
			t.Fatalf("%s: nothing was edited:\n%s", name, file)
		}
		if _, err := Open(edited, public); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %v, want that the signature does not fit", name, err)
		}
	}
	for _, bad := range []string{"", "x", public[:20]} {
		if _, err := Open(file, bad); err == nil || errors.Is(err, ErrForged) {
			t.Errorf("public key %q: %v", bad, err)
		}
	}
}

func TestChangesSinceTheSummary(t *testing.T) {
	t.Parallel()
	s := make1(t)
	for name, test := range map[string]struct {
		recount Recount
		want    string
	}{
		"nothing":                  {recount(t), ""},
		"the open poll goes on":    {recount(t, `{"1":5}`, `{"1":6}`, "d2", "d3"), ""},
		"a flipped vote":           {recount(t, `"votes":{"1":3,"2":1234567}`, `"votes":{"1":4,"2":1234566}`, "d1", "d3"), "Cats <&> had 3 votes, the rows are now 4"},
		"two votes exchanged":      {recount(t, "d1", "d3"), "some votes have changed"},
		"a changed tally":          {recount(t, `"faults":[]`, `"faults":["poll 1 choice 1: 3 votes in rows, 4 in the tally"]`), "4 in the tally"},
		"the poll's rows are gone": {Recount{}, "had 1234567 votes, the rows are now 0"},
	} {
		got := strings.Join(s.Since(test.recount), "\n")
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
