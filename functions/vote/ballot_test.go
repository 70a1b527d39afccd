package vote

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestBallotBodies(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		body string
		form bool
		want ballot
		code string
	}{
		"form":                    {"poll=pets&choice=cats&seq=3&nonce=k1.x", true, ballot{"pets", "cats", 3, "k1.x", ""}, ""},
		"form with other fields":  {"choice=cats&utm=1", true, ballot{choice: "cats"}, ""},
		"empty form":              {"", true, ballot{}, ""},
		"two choices":             {"choice=cats&choice=dogs", true, ballot{}, "bad_body"},
		"two sequences":           {"choice=cats&seq=1&seq=2", true, ballot{}, "bad_body"},
		"sequence of zero":        {"seq=0", true, ballot{}, "bad_body"},
		"sequence with a sign":    {"seq=%2B1", true, ballot{}, "bad_body"},
		"sequence out of range":   {"seq=99999999999999999999", true, ballot{}, "bad_body"},
		"form with a bad escape":  {"choice=%zz", true, ballot{}, "bad_body"},
		"form with a semicolon":   {"choice=cats;poll=pets", true, ballot{}, "bad_body"},
		"JSON":                    {`{"poll":"pets","choice":"cats"}`, false, ballot{poll: "pets", choice: "cats"}, ""},
		"JSON with a field more":  {`{"choice":"cats","seq":9}`, false, ballot{}, "bad_body"},
		"JSON with text after it": {`{"choice":"cats"}x`, false, ballot{}, "bad_body"},
		"JSON of another type":    {`["cats"]`, false, ballot{}, "bad_body"},
		"JSON with spaces":        {" {\n\"poll\" : \"pets\" ,\t\"choice\":\"cats\" } \n", false, ballot{poll: "pets", choice: "cats"}, ""},
		"JSON with escapes":       {`{"poll":"p\u0065ts","choice":"c\"ö"}`, false, ballot{poll: "pets", choice: `c"ö`}, ""},
		"JSON with a code":        {`{"poll":"pets","choice":"cats","code":"X"}`, false, ballot{poll: "pets", choice: "cats", code: "X"}, ""},
		"empty object":            {`{}`, false, ballot{}, ""},
		"JSON with two choices":   {`{"poll":"pets","choice":"cats","choice":"dogs"}`, false, ballot{}, "bad_body"},
		"JSON with two polls":     {`{"poll":"pets","poll":"pets","choice":"dogs"}`, false, ballot{}, "bad_body"},
		"JSON in another case":    {`{"poll":"pets","Choice":"cats"}`, false, ballot{}, "bad_body"},
		"JSON of a number":        {`{"poll":"pets","choice":1}`, false, ballot{}, "bad_body"},
		"JSON of null":            {`{"poll":"pets","choice":null}`, false, ballot{}, "bad_body"},
		"JSON of a list":          {`{"poll":"pets","choice":["cats"]}`, false, ballot{}, "bad_body"},
		"JSON without a comma":    {`{"poll":"pets" "choice":"cats"}`, false, ballot{}, "bad_body"},
		"JSON with a last comma":  {`{"poll":"pets",}`, false, ballot{}, "bad_body"},
		"JSON that is cut":        {`{"poll":"pets`, false, ballot{}, "bad_body"},
		"JSON cut in an escape":   {`{"poll":"pets\`, false, ballot{}, "bad_body"},
		"JSON with a bad escape":  {`{"poll":"pe\ts","choice":"\q"}`, false, ballot{}, "bad_body"},
		"JSON with a raw control": {"{\"poll\":\"pe\tts\"}", false, ballot{}, "bad_body"},
		"empty JSON":              {``, false, ballot{}, "bad_body"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parse := parseForm
			if !test.form {
				parse = parseJSON
			}
			got, p := parse(test.body)
			if p != nil && (strings.Contains(p.in(english), "Go ") || strings.Contains(p.in(english), "json:")) {
				t.Errorf("the refusal speaks of the program: %s", p.in(english))
			}
			if p != nil && p.code != test.code || p == nil && test.code != "" || got != test.want {
				t.Errorf("got %+v, %v; want %+v, %q", got, p, test.want, test.code)
			}
		})
	}
}

func FuzzBallot(f *testing.F) {
	f.Add("poll=pets&choice=cats&seq=3&nonce=k1.x")
	f.Add(`{"poll":"pets","choice":"cats"}`)
	f.Fuzz(func(t *testing.T, body string) {
		b, p := parseForm(body)
		if p == nil && b.seq < 0 || p == nil && b.seq > maxSeq {
			t.Errorf("sequence %d accepted", b.seq)
		}
		if p != nil && (p.status < 400 || p.status > 499 || len(p.in(english)) > 4*maxBody) {
			t.Errorf("problem %+v", p)
		}
		if values, err := url.ParseQuery(body); err == nil && p == nil &&
			(b.choice != values.Get("choice") || b.poll != values.Get("poll") || b.nonce != values.Get("nonce") || b.code != values.Get("code")) {
			t.Errorf("%q reads as %+v, and for net/url as %v", body, b, values)
		} else if err != nil && p == nil {
			t.Errorf("%q is accepted, and for net/url it has the mistake %v", body, err)
		}
		got, p := parseJSON(body)
		if p != nil && !strings.HasPrefix(p.code, "bad_") {
			t.Errorf("problem %+v", p)
		}
		var want struct{ Poll, Choice, Code string }
		if p == nil && (json.Unmarshal([]byte(body), &want) != nil || got != ballot{poll: want.Poll, choice: want.Choice, code: want.Code}) {
			t.Errorf("%q reads as %+v, and for encoding/json as %+v", body, got, want)
		}
	})
}
