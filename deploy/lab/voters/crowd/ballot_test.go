package crowd

import (
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"waggle/deploy/lab/voters/judge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	voterID = "e090a78e-fbd8-4e21-bb5c-d15086ff9d7d"
	page    = `<html><form action="/find"><input type="hidden" name="poll" value="pets"></form>
<form method="post" action="?poll=pets"><input type="hidden" name="poll" value="pets"><input type="hidden" name="seq" value="3">
<input type="hidden" name="nonce" value="k1.a&amp;b"><input type="text" name="ignored" value="x"><button name="choice" value="cats">Cats</button></form>`
)

func token(seq string) jar {
	var j jar
	j.take(http.Header{"Set-Cookie": {"other=1", "waggle=v1." + voterID + "." + seq + ".1829921833.k1.c2ln"}})
	return j
}

func TestReadBallot(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		api     bool
		body    string
		cookies jar
		seq     int64
		err     string
	}{
		"a form":                        {false, page, token("3"), 3, ""},
		"a newer cookie than the form":  {false, page, token("5"), 5, ""},
		"an older cookie than the form": {false, page, token("1"), 3, ""},
		"JSON goes by the cookie":       {true, "{}", token("7"), 7, ""},
		"no cookie":                     {true, "{}", jar{}, 0, "no cookie v1."},
		"a cookie without a number":     {true, "{}", token("x"), 0, "reading the cookie's sequence"},
		"a form without a number":       {false, strings.Replace(page, `"3"`, `""`, 1), token("1"), 0, "reading the form's field seq"},
		"a form of another poll":        {false, strings.ReplaceAll(page, "pets", "birds"), token("1"), 0, "no form that is posted for poll pets"},
		"a form that is not whole":      {false, strings.TrimSuffix(page, "</form>"), token("1"), 0, "no form that is posted for poll pets"},
		"an error page":                 {false, "Bad Gateway", token("1"), 0, "no form that is posted for poll pets"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := readBallot(test.api, "pets", []byte(test.body), test.cookies)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("got %v, want %q", err, test.err)
			}
			if err == nil && (got.seq != test.seq || got.voter != voterID) {
				t.Errorf("voter %s, sequence %d, want %d", got.voter, got.seq, test.seq)
			}
		})
	}
}

func TestFill(t *testing.T) {
	t.Parallel()
	paper, err := readBallot(false, "pets", []byte(page), token("3"))
	if err != nil {
		t.Fatal(err)
	}
	kind, body := paper.fill(false, "pets", "cats")
	if kind != "application/x-www-form-urlencoded" || string(body) != "nonce=k1.a%26b&poll=pets&seq=3&choice=cats" {
		t.Errorf("form: %s %s", kind, body)
	}
	kind, body = paper.fill(true, "pets", "cats")
	if kind != "application/json" || string(body) != `{"poll":"pets","choice":"cats"}` {
		t.Errorf("JSON: %s %s", kind, body)
	}
}

func TestOutcomeOf(t *testing.T) {
	t.Parallel()
	const receipt = `{"status":"recorded","receipt":"r1.1"}`
	tests := map[string]struct {
		api    bool
		status int
		body   string
		want   judge.Outcome
	}{
		"a form is redirected":           {false, 303, "", judge.Acked},
		"another redirection":            {false, 302, "", judge.Unknown},
		"a page in place of an answer":   {false, 200, page, judge.Unknown},
		"JSON with a receipt":            {true, 200, receipt, judge.Acked},
		"JSON without a receipt":         {true, 200, "{}", judge.Unknown},
		"no JSON":                        {true, 200, "ok", judge.Unknown},
		"JSON does not get redirected":   {true, 303, receipt, judge.Unknown},
		"a receipt with an error status": {true, 500, receipt, judge.Unknown},
		"forbidden":                      {false, 403, "", judge.Refused},
		"closed":                         {true, 409, "{}", judge.Refused},
		"too many requests":              {false, 429, "", judge.Unknown},
		"not confirmed":                  {false, 503, "", judge.Unknown},
		"a bad gateway":                  {true, 502, "", judge.Unknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := outcomeOf(test.api, answer{status: test.status, body: []byte(test.body)}); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func FuzzReadBallot(f *testing.F) {
	f.Add(page, "waggle=v1."+voterID+".3.1.k1.s")
	f.Add("<form method=post><input type=hidden name=poll value=pets>", "a=v1.....")
	f.Fuzz(func(t *testing.T, body, cookie string) {
		var cookies jar
		cookies.take(http.Header{"Set-Cookie": {cookie}})
		if strings.ContainsAny(cookies.header(), "\r\n") {
			t.Fatalf("cookie %q breaks the request", cookies.header())
		}
		got, err := readBallot(false, "pets", []byte(body), cookies)
		if err != nil {
			return
		}
		if _, text := got.fill(false, "pets", "cats"); !strings.HasSuffix(string(text), "&choice=cats") || got.fields.Get("poll") != "pets" {
			t.Errorf("filled in as %s", text)
		}
	})
}

func BenchmarkReadBallot(b *testing.B) {
	cookies := token("3")
	text := []byte(page)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readBallot(false, "pets", text, cookies); err != nil {
			b.Fatal(err)
		}
	}
}
