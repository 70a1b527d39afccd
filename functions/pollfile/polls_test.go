package pollfile

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

const pollFile = `{"polls":[
	{"id":1,"slug":"pets","question":"Cats or <dogs>?","options":[{"id":1,"slug":"cats","name":"Cats"},{"id":2,"slug":"dogs","name":"Dogs & co"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live"},
	{"id":2,"slug":"past","question":"Past?","options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2021-01-01T00:00:00Z","mode":"first","results":"closed"},
	{"id":3,"slug":"future","question":"Future?","options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}],
	 "opens":"2099-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live"}]}`

const fullPoll = `{"polls":[{"id":1,"slug":"pets","question":"Katzen?","opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z",
	"options":[{"id":1,"slug":"yes","name":"Ja","image":"cats.svg"},{"id":2,"slug":"no","name":"Nein"}],
	"mode":"sso","may_change":true,"results":"live","lang":"de","zone":"Europe/Berlin","texts":{"intro":"Bitte."},
	"organiser":"Stadt","contact":"mailto:a@b.example","privacy":"https://b.example/privacy",
	"limits":{"voter_per_minute":5,"network_per_minute":100},
	"sso":{"issuer":"https://id.example","audience":"vote","jwks":"https://id.example/jwks","algorithms":["RS256"],"login":"https://id.example/in"}}]}`

func TestKeepsFirst(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]bool{"last": false, "first": true, "once": true, "sso": true} {
		if p := (&Poll{Mode: mode}); p.KeepsFirst() != want {
			t.Errorf("mode %s keeps the first: %t", mode, !want)
		}
	}
	if (&Poll{Mode: "once", MayChange: true}).KeepsFirst() || (&Poll{Mode: "sso", MayChange: true}).KeepsFirst() {
		t.Error("a vote that may be changed keeps the first")
	}
}

func TestPollFile(t *testing.T) {
	t.Parallel()
	change := func(from, to string) string { return strings.Replace(pollFile, from, to, 1) }
	tests := map[string]struct{ file, want string }{
		"complete":               {pollFile, ""},
		"not JSON":               {"polls", "decoding"},
		"no polls":               {`{"polls":[]}`, "polls"},
		"unknown field":          {change(`"mode"`, `"moed"`), "moed"},
		"trailing text":          {pollFile + "{}", "after the end"},
		"id of zero":             {change(`"id":1`, `"id":0`), "polls[0].id"},
		"id too large":           {change(`"id":1`, `"id":2147483648`), "decoding: polls.id: number 2147483648 is not legal there"},
		"id twice":               {change(`"id":2,"slug":"past"`, `"id":1,"slug":"past"`), "unique"},
		"slug twice":             {change(`"slug":"past"`, `"slug":"pets"`), "unique"},
		"slug with a slash":      {change(`"pets"`, `"pe/ts"`), "polls[0].slug"},
		"empty question":         {change(`Past?`, ` `), "polls[1].question"},
		"control character":      {change(`Past?`, `Pa\u0007st`), "polls[1].question"},
		"one option":             {change(`,{"id":2,"slug":"dogs","name":"Dogs & co"}`, ``), "polls[0].options"},
		"option id twice":        {change(`"id":2,"slug":"dogs"`, `"id":1,"slug":"dogs"`), "options[1].id"},
		"option id too large":    {change(`"id":2,"slug":"dogs"`, `"id":32768,"slug":"dogs"`), "decoding"},
		"option slug twice":      {change(`"slug":"dogs"`, `"slug":"cats"`), "options[1].slug"},
		"closes before opens":    {change(`2100-01-01`, `2019-01-01`), "polls[0].closes"},
		"no opens":               {change(`"opens":"2020-01-01T00:00:00Z",`, ``), "polls[0].opens"},
		"opens that is no time":  {change(`2020-01-01T00:00:00Z`, `tomorrow`), "decoding"},
		"unknown mode":           {change(`"mode":"last"`, `"mode":"middle"`), "polls[0].mode"},
		"unknown results":        {change(`"results":"live"`, `"results":"never"`), "polls[0].results"},
		"key in another case":    {change(`"mode"`, `"Mode"`), `"Mode": must be in lower case`},
		"key twice":              {change(`"mode":"last"`, `"mode":"first","mode":"last"`), `"mode": is there twice`},
		"polls twice":            {`{"polls":[],` + pollFile[1:], `"polls": is there twice`},
		"every field":            {fullPoll, ""},
		"may_change in last":     {change(`"mode":"last"`, `"mode":"last","may_change":true`), "polls[0].may_change"},
		"sso without a provider": {change(`"mode":"last"`, `"mode":"sso"`), "polls[0].sso"},
		"a provider in last":     {strings.Replace(fullPoll, `"mode":"sso","may_change":true`, `"mode":"last"`, 1), "polls[0].sso"},
		"HS256":                  {strings.Replace(fullPoll, `"RS256"`, `"HS256"`, 1), "sso.algorithms"},
		"no algorithm":           {strings.Replace(fullPoll, `["RS256"]`, `[]`, 1), "sso.algorithms"},
		"JWKS without TLS":       {strings.Replace(fullPoll, `https://id.example/jwks`, `http://id.example/jwks`, 1), "sso.jwks"},
		"JWKS on this machine":   {strings.Replace(fullPoll, `https://id.example/jwks`, `http://127.0.0.1:9/jwks`, 1), ""},
		"unknown language":       {strings.Replace(fullPoll, `"lang":"de"`, `"lang":"tlh"`, 1), "polls[0].lang"},
		"unknown zone":           {strings.Replace(fullPoll, `Europe/Berlin`, `Europe/Bonn`, 1), "polls[0].zone"},
		"unknown text":           {strings.Replace(fullPoll, `"intro"`, `"footer"`, 1), "polls[0].texts"},
		"contact with a script":  {strings.Replace(fullPoll, `mailto:a@b.example`, `javascript:alert(1)`, 1), "polls[0].contact"},
		"image with a path":      {strings.Replace(fullPoll, `cats.svg`, `../cats.svg`, 1), "options[0].image"},
		"negative limit":         {strings.Replace(fullPoll, `"voter_per_minute":5`, `"voter_per_minute":-5`, 1), "limits.voter_per_minute"},
		"too large":              {strings.Repeat(" ", maxPollFile+1), "bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(test.file))
			if err != nil && strings.Contains(err.Error(), "Go ") {
				t.Errorf("the error names Go types: %v", err)
			}
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestPollState(t *testing.T) {
	t.Parallel()
	opens := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	p := Poll{Opens: opens, Closes: opens.Add(time.Hour)}
	for at, want := range map[time.Duration]string{-1: "waiting", 0: "open", time.Hour - 1: "open", time.Hour: "closed"} {
		if got := p.state(opens.Add(at)); got != want {
			t.Errorf("at opens%+v: %s, want %s", at, got, want)
		}
	}
}

func TestShippedPollFile(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../polls.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data); err != nil {
		t.Error(err)
	}
}

func TestFunctionsHaveTheSameRules(t *testing.T) {
	t.Parallel()
	for _, copied := range [][2]string{{"vote", "polls.go"}, {"results", "polls.go"}, {"vote", "code.go"}} {
		function, file := copied[0], copied[1]
		ours, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := os.ReadFile("../" + function + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.Replace(ours, []byte("package pollfile\n"), []byte("package "+function+"\n"), 1), theirs) {
			t.Errorf("%s of %s is not this package's: run go generate ./functions/pollfile", file, function)
		}
	}
}

func FuzzPollFile(f *testing.F) {
	f.Add([]byte(pollFile))
	f.Add([]byte(`{"polls":[{"id":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		polls, err := Parse(data)
		if err == nil && (len(polls) == 0 || len(polls[0].Options) < 2) {
			t.Errorf("accepted %q", data)
		}
	})
}
