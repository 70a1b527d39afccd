package results

import (
	"strings"
	"testing"
	"time"
)

var closing = time.Date(2026, 5, 16, 21, 0, 0, 0, time.UTC)

// codes are the reasons' codes, the closed ones in brackets.
func codes(reasons []reason) string {
	var all []string
	for _, r := range reasons {
		if r.Closed {
			r.Code = "(" + r.Code + ")"
		}
		all = append(all, r.Code)
	}
	return strings.Join(all, " ")
}

func TestFinalAndWholeAreSaidOnlyWhenNothingIsInTheWay(t *testing.T) {
	t.Parallel()
	p := poll{ID: 1, Slug: "p", Opens: closing.Add(-time.Hour), Closes: closing, Mode: modeLast, Results: resultsLive,
		Options: []option{{ID: 1, Slug: "a"}, {ID: 2, Slug: "b"}}}
	now := closing.Add(2 * time.Minute)
	settled := func() *count {
		return &count{asOf: now, votes: map[choice]int64{{1, 1}: 3},
			streams: []stream{{Node: "n1", State: streamActive, Captured: 4, Counted: 4, SeenAt: now}},
			checks:  []check{{Name: "tally", CheckedAt: now}}}
	}
	tests := map[string]struct {
		change     func(c *count)
		now        time.Time
		stale      bool
		poll       string // why the poll is not final
		ledger     string // why the ledger is not whole
		final, all bool
	}{
		"all is well":         {func(*count) {}, now, false, "", "", true, true},
		"still open":          {func(*count) {}, closing.Add(-time.Second), false, "open", "", false, true},
		"not open yet":        {func(*count) {}, closing.Add(-2 * time.Hour), false, "waiting", "", false, true},
		"Postgres is away":    {func(*count) {}, now, true, "unread", "unread", false, false},
		"pending":             {func(c *count) { c.streams[0].Captured, c.streams[0].Pending = 9, 5 }, now, false, "pending", "pending", false, false},
		"a node is silent":    {func(c *count) { c.streams[0].State = streamMissing }, now, false, "silent", "silent", false, false},
		"lost":                {func(c *count) { c.streams[0].Captured = 6 }, now, false, "lost", "lost", false, false},
		"lost, and closed":    {func(c *count) { c.streams[0].Captured, c.streams[0].LostClosed = 6, 2 }, now, false, "(lost)", "(lost)", true, false},
		"lost, partly closed": {func(c *count) { c.streams[0].Captured, c.streams[0].LostClosed = 6, 1 }, now, false, "lost (lost)", "lost (lost)", false, false},
		"unknowable":          {func(c *count) { c.gaps = []gap{{Node: "n1"}} }, now, false, "gap", "gap", false, false},
		"unknowable, closed":  {func(c *count) { c.gaps = []gap{{Node: "n1", ClosedAt: &now}} }, now, false, "(gap)", "(gap)", true, false},
		"a failed check":      {func(c *count) { c.checks[0].Drift = -1 }, now, false, "check", "check", false, false},
		"a stale live check":  {func(c *count) { c.checks = append(c.checks, check{"missing", 1, now}) }, now, false, "", "", true, true},
		"not checked since":   {func(c *count) { c.checks[0].CheckedAt = closing }, now, false, "not_checked_since", "", false, true},
		"never checked":       {func(c *count) { c.checks = nil }, now, false, "not_checked_since", "", false, true},
		"not read since":      {func(c *count) { c.streams[0].SeenAt = closing.Add(captureTime - 1) }, now, false, "not_read_since", "", false, true},
		"a replaced stream need not be read": {func(c *count) {
			c.streams = append(c.streams, stream{Node: "n1", State: "replaced", Captured: 2, Counted: 2, SeenAt: closing.Add(-time.Hour)})
		}, now, false, "", "", true, true},
		"too much here hides nothing there": {func(c *count) {
			c.streams = append(c.streams, stream{Node: "n2", State: streamActive, Captured: 1, Counted: 3, SeenAt: now})
			c.streams[0].Captured = 6
		}, now, false, "lost", "lost", false, false},
		"no node at all": {func(c *count) { c.streams = nil }, now, false, "no_nodes", "no_nodes", false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := settled()
			test.change(c)
			r := newReport([]poll{p}, c, test.now, test.stale)
			got := r.Polls[0]
			if got.Final != test.final || codes(got.Reasons) != test.poll {
				t.Errorf("final %v, reasons %q; want %v, %q", got.Final, codes(got.Reasons), test.final, test.poll)
			}
			if r.Ledger.Whole != test.all || codes(r.Ledger.Reasons) != test.ledger {
				t.Errorf("whole %v, reasons %q; want %v, %q", r.Ledger.Whole, codes(r.Ledger.Reasons), test.all, test.ledger)
			}
		})
	}
}

func TestSharesTiesAndTurnout(t *testing.T) {
	t.Parallel()
	p := poll{ID: 1, Opens: closing.Add(-3 * time.Hour), Closes: closing, Mode: modeLast, Results: resultsLive,
		Options: []option{{ID: 1}, {ID: 2}, {ID: 3}}}
	minute := func(m int, voters int64) minuteVoters {
		return minuteVoters{closing.Add(time.Duration(m) * time.Minute), voters}
	}
	c := &count{votes: map[choice]int64{{1, 1}: 2, {1, 2}: 2, {1, 3}: 2, {1, 7}: 1},
		turnout: map[int32][]minuteVoters{1: {minute(-3, 1), minute(-1, 4)}}}
	got := newReport([]poll{p}, c, closing, false).Polls[0]
	if got.Tie != 3 || *got.Total != 7 || *got.Options[0].Share != 28.57 || !got.Options[2].Leads || got.Options[3].Leads || !got.Options[3].gone {
		t.Errorf("three equal options and one that is gone: %+v", got)
	}
	if got.Earlier != 2 || len(got.Turnout) != 2 {
		t.Errorf("turnout %v, %d earlier; want two minutes and two earlier", got.Turnout, got.Earlier)
	}
	s := scene{L: languages[0], R: report{now: closing}, Poll: &got}
	if chart := s.Chart(); chart == nil || chart.Columns != 3 || chart.Path != "M0 100v-25h1v25zM2 100v-100h1v100z" || chart.MostAt != "20:59" {
		t.Errorf("chart = %+v", s.Chart())
	}
	c.votes = map[choice]int64{}
	if got := newReport([]poll{p}, c, closing, false).Polls[0]; got.Tie != 0 || got.Options[0].Leads || got.Options[0].Share != nil {
		t.Errorf("without votes nobody leads: %+v", got)
	}
}

// What is left out for want of room says so.
func TestTurnoutOfManyPollsSaysThatItIsCut(t *testing.T) {
	t.Parallel()
	polls := make([]poll, maxTurnouts+2)
	for i := range polls {
		polls[i] = poll{ID: int32(i + 1), Opens: closing.Add(-time.Hour), Closes: closing, Results: resultsLive}
	}
	polls[3].Opens, polls[3].Closes = closing, closing.Add(time.Hour) // not open yet: takes no room
	now := closing.Add(-time.Minute)
	ids, _, _ := turnoutWindows(polls, now)
	r := newReport(polls, &count{}, now, false)
	if len(ids) != maxTurnouts || ids[len(ids)-1] != maxTurnouts+1 || r.Polls[maxTurnouts].TurnoutCut || !r.Polls[maxTurnouts+1].TurnoutCut || r.Polls[3].TurnoutCut {
		t.Errorf("turnout of %d polls is read, the last two are cut: %v %v", len(ids), r.Polls[maxTurnouts].TurnoutCut, r.Polls[maxTurnouts+1].TurnoutCut)
	}
}

func TestLanguages(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{"": "en", "de-AT,en;q=0.5": "de", "fr": "en", "ar-EG": "ar", "es-419": "es", "xx, es;q=0.1": "es", "*": "en", ";;": "en"} {
		if got := languageOf("", header); got.Code != want {
			t.Errorf("Accept-Language %q = %s, want %s", header, got.Code, want)
		}
	}
	if got := languageOf("de", "es"); got.Code != "de" {
		t.Errorf("lang=de = %s", got.Code)
	}
	now := time.Date(2026, 11, 30, 1, 33, 0, 0, time.UTC)
	for code, want := range map[string]string{
		"en": "1,234,567 votes|26 h ago, Sat 23:33 UTC|28 November 2026, 23:33 UTC",
		"de": "1.234.567 Stimmen|vor 26 h, Sa 23:33 UTC|28. November 2026, 23:33 UTC",
		"es": "1.234.567 votos|hace 26 h, sáb 23:33 UTC|28 de noviembre de 2026, 23:33 UTC",
		"ar": "1,234,567 صوتًا|قبل 26 س، السبت 23:33 UTC|28 نوفمبر 2026، 23:33 UTC",
	} {
		l := languageOf(code, "")
		seen := now.Add(-26 * time.Hour)
		if got := l.Plural("votes", 1_234_567) + "|" + l.seen(seen, now) + "|" + l.Date(seen, ""); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
	if got := languageOf("en", "").Date(now, "Europe/Berlin"); got != "30 November 2026, 02:33 CET (30 November 2026, 01:33 UTC)" {
		t.Errorf("in a zone: %s", got)
	}
	for n, want := range map[int64]string{0: "لا أصوات", 1: "صوت واحد", 2: "صوتان", 3: "3 أصوات", 11: "11 صوتًا", 100: "100 صوت"} {
		if got := languageOf("ar", "").Plural("votes", n); got != want {
			t.Errorf("%d in Arabic = %q, want %q", n, got, want)
		}
	}
}

// Every message stands in every language, with the same places to fill in.
func TestMessagesAreComplete(t *testing.T) {
	t.Parallel()
	bare := func(key string) string { name, _, _ := strings.Cut(key, "."); return name }
	for _, l := range languages {
		have := map[string]bool{}
		for key := range l.texts {
			have[bare(key)] = true
			if _, ok := languages[0].texts[bare(key)]; !ok && !strings.Contains(key, ".") {
				t.Errorf("%s has %s, which English lacks", l.Code, key)
			}
		}
		for key, english := range languages[0].texts {
			if !have[bare(key)] {
				t.Errorf("%s lacks %s", l.Code, key)
			}
			text := l.pluralRaw(strings.TrimSuffix(strings.TrimSuffix(key, ".one"), ".other"), 5)
			if _, plain := l.texts[key]; plain {
				text = l.texts[key]
			}
			for _, place := range []string{"{0}", "{1}", "{2}", "{3}", "{n}", "{node}", "{since}", "{until}", "{check}", "{day}", "{month}", "{year}", "{time}"} {
				if strings.Contains(english, place) && !strings.Contains(text, place) && !strings.HasSuffix(key, ".one") {
					t.Errorf("%s: %s lacks %s: %q", l.Code, key, place, text)
				}
			}
		}
	}
}

func TestShareForPeople(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		votes, total int64
		want         string
	}{{0, 0, "0.0 %"}, {0, 5, "0.0 %"}, {1, 3, "33.3 %"}, {1, 1001, "< 0.1 %"}, {1000, 1001, "> 99.9 %"}, {5, 5, "100.0 %"}, {1, 1000, "0.1 %"}} {
		got := strings.ReplaceAll(languages[0].Share(test.votes, test.total), "\u00a0", " ")
		if got != test.want {
			t.Errorf("%d of %d = %q, want %q", test.votes, test.total, got, test.want)
		}
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	p := poll{ID: 1, Slug: "p", Question: "=1+1, really?", Opens: closing.Add(-time.Hour), Closes: closing, Results: resultsLive,
		Options: []option{{ID: 1, Slug: "a", Name: `"A"`}, {ID: 2, Slug: "b", Name: "B"}}}
	hidden := p
	hidden.ID, hidden.Slug, hidden.Results = 2, "h", resultsClose
	c := &count{asOf: closing, votes: map[choice]int64{{1, 1}: 1_000_000, {1, 2}: 3, {2, 1}: 4242}}
	var out strings.Builder
	if err := writeCSV(&out, newReport([]poll{p, hidden}, c, closing.Add(-1), false)); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"poll,question,state,final,option,name,votes,share_percent,total,leads,as_of,stale",
		`p,"'=1+1, really?",open,false,a,"""A""",1000000,100.00,1000003,true,2026-05-16T21:00:00Z,false`,
		`p,"'=1+1, really?",open,false,b,B,3,0.00,1000003,false,2026-05-16T21:00:00Z,false`,
		`h,"'=1+1, really?",open,false,a,"""A""",,,,false,2026-05-16T21:00:00Z,false`,
		`h,"'=1+1, really?",open,false,b,B,,,,false,2026-05-16T21:00:00Z,false`, "",
	}, "\r\n")
	if out.String() != want {
		t.Errorf("CSV:\n%s\nwant\n%s", out.String(), want)
	}
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]format{
		"": formatHTML, "*/*": formatHTML, "text/html,application/xhtml+xml,*/*;q=0.8": formatHTML, "application/json": formatJSON,
		"text/csv": formatCSV, "text/csv;q=0.5, application/json": formatJSON, "application/json, text/html": formatHTML,
		"text/event-stream": formatEvents, "text/html;q=0.1, text/csv;q=0.2": formatCSV, "nonsense;;": formatHTML,
	} {
		if got := accepted([]string{accept}); got != want {
			t.Errorf("Accept: %s = %s, want %s", accept, got, want)
		}
	}
	if got := accepted([]string{"text/plain", "text/csv"}); got != formatCSV {
		t.Errorf("two Accept lines = %s, want csv", got)
	}
}
