package vote

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestPollFile(t *testing.T) {
	t.Parallel()
	change := func(from, to string) string { return strings.Replace(pollFile, from, to, 1) }
	tests := map[string]struct{ file, want string }{
		"complete":              {pollFile, ""},
		"not JSON":              {"polls", "decoding"},
		"no polls":              {`{"polls":[]}`, "polls"},
		"unknown field":         {change(`"mode"`, `"moed"`), "moed"},
		"trailing text":         {pollFile + "{}", "after the end"},
		"id of zero":            {change(`"id":1`, `"id":0`), "polls[0].id"},
		"id too large":          {change(`"id":1`, `"id":2147483648`), "decoding"},
		"id twice":              {change(`"id":2,"slug":"past"`, `"id":1,"slug":"past"`), "unique"},
		"slug twice":            {change(`"slug":"past"`, `"slug":"pets"`), "unique"},
		"slug with a slash":     {change(`"pets"`, `"pe/ts"`), "polls[0].slug"},
		"empty question":        {change(`Past?`, ` `), "polls[1].question"},
		"control character":     {change(`Past?`, `Pa\u0007st`), "polls[1].question"},
		"one option":            {change(`,{"id":2,"slug":"dogs","name":"Dogs & co"}`, ``), "polls[0].options"},
		"option id twice":       {change(`"id":2,"slug":"dogs"`, `"id":1,"slug":"dogs"`), "options[1].id"},
		"option id too large":   {change(`"id":2,"slug":"dogs"`, `"id":32768,"slug":"dogs"`), "decoding"},
		"option slug twice":     {change(`"slug":"dogs"`, `"slug":"cats"`), "options[1].slug"},
		"closes before opens":   {change(`2100-01-01`, `2019-01-01`), "polls[0].closes"},
		"no opens":              {change(`"opens":"2020-01-01T00:00:00Z",`, ``), "polls[0].opens"},
		"opens that is no time": {change(`2020-01-01T00:00:00Z`, `tomorrow`), "decoding"},
		"unknown mode":          {change(`"mode":"last"`, `"mode":"middle"`), "polls[0].mode"},
		"unknown results":       {change(`"results":"live"`, `"results":"never"`), "polls[0].results"},
		"too large":             {strings.Repeat(" ", maxPollFile+1), "bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parsePolls([]byte(test.file))
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestPollState(t *testing.T) {
	t.Parallel()
	p := poll{Opens: someTime, Closes: someTime.Add(time.Hour)}
	for at, want := range map[time.Duration]string{-1: "waiting", 0: "open", time.Hour - 1: "open", time.Hour: "closed"} {
		if got := p.state(someTime.Add(at)); got != want {
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
	if _, err := parsePolls(data); err != nil {
		t.Error(err)
	}
}

func TestResultsReadsPollsTheSameWay(t *testing.T) {
	t.Parallel()
	ours, err := os.ReadFile("polls.go")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.ReadFile("../results/polls.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimPrefix(ours, []byte("package vote")), bytes.TrimPrefix(theirs, []byte("package results"))) {
		t.Error("polls.go of vote and of results differ in more than the package line: change both")
	}
}

func FuzzPollFile(f *testing.F) {
	f.Add([]byte(pollFile))
	f.Add([]byte(`{"polls":[{"id":1}]}`))
	k, err := parseKeys("poll:" + keyP + "\nk1:" + keyA)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		polls, err := parsePolls(data)
		if err != nil {
			return
		}
		for i := range polls {
			if _, err := newPaper(&polls[i], polls, k, ""); err != nil {
				t.Errorf("an accepted poll has no page: %v", err)
			}
		}
	})
}
