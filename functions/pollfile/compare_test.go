package pollfile

import (
	"strings"
	"testing"
	"time"
)

func TestEditsOfPolls(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		from, to  string
		what      string // "": nothing changes
		falsifies bool
	}{
		"nothing": {"x", "x", "", false},
		"mode of an open poll": {`"mode":"last","results":"live"},
	{"id":2`, `"mode":"first","results":"live"},
	{"id":2`, "mode: last becomes first", true},
		"mode of a future poll":      {`"closes":"2100-01-01T00:00:00Z","mode":"last","results":"live"}]}`, `"closes":"2100-01-01T00:00:00Z","mode":"first","results":"live"}]}`, "mode: last becomes first", false},
		"an option's id reused":      {`"slug":"cats"`, `"slug":"birds"`, "option 1: cats becomes birds", true},
		"two options' names swapped": {`"name":"Cats"`, `"name":"Dogs & co"`, "another option had", true},
		"a typo in a name":           {`"name":"Cats"`, `"name":"Cats!"`, "Cats becomes Cats!", false},
		"an option removed":          {`{"id":2,"slug":"dogs"`, `{"id":3,"slug":"dogs"`, "option 2, dogs, is removed", true},
		"an option more":             {`[{"id":1,"slug":"cats"`, `[{"id":7,"slug":"birds","name":"Birds"},{"id":1,"slug":"cats"`, "option 7, birds, is new", false},
		"closed early":               {`"opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z"`, `"opens":"2020-01-01T00:00:00Z","closes":"2026-04-01T00:00:00Z"`, "closes: ", false},
		"a closed poll reopened":     {`"closes":"2021-01-01T00:00:00Z"`, `"closes":"2031-01-01T00:00:00Z"`, "closes: ", true},
		"opens put off":              {`"opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z"`, `"opens":"2050-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z"`, "opens: ", true},
		"another question":           {`Cats or <dogs>?`, `Which?`, "question (its meaning must stay)", false},
		"hidden results":             {`"mode":"first","results":"closed"`, `"mode":"first","results":"live"`, "results: closed becomes live", false},
		"an open poll gone":          {`{"id":1,"slug":"pets"`, `{"id":9,"slug":"pets"`, "is removed", true},
		"a closed poll gone":         {`{"id":2,"slug":"past"`, `{"id":9,"slug":"old"`, "is removed", false},
	}
	before, err := Parse([]byte(pollFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range tests {
		after, err := Parse([]byte(strings.Replace(pollFile, test.from, test.to, 1)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found, falsified := test.what == "", false
		changes := Compare(before, after, now)
		for _, c := range changes {
			found = found || strings.Contains(c.What+c.Falsifies, test.what)
			falsified = falsified || c.Falsifies != ""
		}
		if !found || falsified != test.falsifies || len(changes) == 0 != (test.what == "") {
			t.Errorf("%s: %+v", name, changes)
		}
	}
}
