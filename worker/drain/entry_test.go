package drain

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"waggle/worker/store"
)

func testPolls(t testing.TB) *Polls {
	t.Helper()
	p, err := parsePolls([]byte(pollsText))
	if err != nil {
		t.Fatalf("parsing the polls: %v", err)
	}
	return p
}

func TestDecode(t *testing.T) {
	t.Parallel()
	v := voter(5)
	good := []string{"p", "1", "v", v, "c", "2", "s", "9223372036854775807", "t", "1700000000000"}
	with := func(i int, value string) []string {
		f := slices.Clone(good)
		f[i] = value
		return f
	}
	for name, tc := range map[string]struct {
		fields []string
		at     streamID
		reason string
	}{
		"a vote":                       {good, streamID{7, 0}, ""},
		"fields in another order":      {[]string{"t", "1", "s", "0", "c", "1", "v", v, "p", "1"}, streamID{7, 0}, ""},
		"no fields":                    {nil, streamID{7, 0}, "not the five fields p, v, c, s, t"},
		"a field twice":                {with(8, "s"), streamID{7, 0}, "a field twice"},
		"another field":                {with(8, "x"), streamID{7, 0}, "a field other than p, v, c, s, t"},
		"poll 0":                       {with(1, "0"), streamID{7, 0}, "p is no poll id: decimal, 1 to 2147483647"},
		"poll of 32 bits":              {with(1, "2147483648"), streamID{7, 0}, "p is no poll id: decimal, 1 to 2147483647"},
		"poll with a sign":             {with(1, "+1"), streamID{7, 0}, "p is no poll id: decimal, 1 to 2147483647"},
		"poll with a leading zero":     {with(1, "01"), streamID{7, 0}, "p is no poll id: decimal, 1 to 2147483647"},
		"empty poll":                   {with(1, ""), streamID{7, 0}, "p is no poll id: decimal, 1 to 2147483647"},
		"unknown poll":                 {with(1, "3"), streamID{7, 0}, "unknown poll"},
		"choice of 16 bits":            {with(5, "32768"), streamID{7, 0}, "c is no choice: decimal, 1 to 32767"},
		"unknown choice":               {with(5, "4"), streamID{7, 0}, "unknown choice"},
		"voter too short":              {with(3, v[1:]), streamID{7, 0}, "v is no voter: 22 characters of base64url"},
		"voter with padding":           {with(3, v[:20]+"=="), streamID{7, 0}, "v is no voter: 22 characters of base64url"},
		"voter in the other alphabet":  {with(3, "+"+v[1:]), streamID{7, 0}, "v is no voter: 22 characters of base64url"},
		"voter with a line break":      {with(3, "\n"+v[1:]), streamID{7, 0}, "v is no voter: 22 characters of base64url"},
		"voter with stray last bits":   {with(3, v[:21]+"B"), streamID{7, 0}, "v is no voter: 22 characters of base64url"},
		"negative sequence":            {with(7, "-1"), streamID{7, 0}, "s is no sequence: decimal, 0 to 9223372036854775807"},
		"sequence of 64 bits":          {with(7, "9223372036854775808"), streamID{7, 0}, "s is no sequence: decimal, 0 to 9223372036854775807"},
		"time 0":                       {with(9, "0"), streamID{7, 0}, "t is no time: decimal Unix ms, 1 to 9223372036854775807"},
		"largest entry id that fits":   {good, streamID{1<<48 - 1, 1<<48 - 1}, ""},
		"entry id of more than 48 bit": {good, streamID{1 << 48, 0}, "entry id out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, reason := decode(entry{id: "x", at: tc.at, fields: tc.fields}, 1, testPolls(t))
			if reason != tc.reason {
				t.Errorf("reason = %q, want %q (vote %+v)", reason, tc.reason, got)
			}
		})
	}
	want := store.Vote{Poll: 1, Choice: 2, Seq: 1<<63 - 1, TS: 1_700_000_000_000}
	want.Voter[15] = 5
	want.EID, _ = entryKey(streamID{7, 3}, 2)
	if got, reason := decode(entry{at: streamID{7, 3}, fields: good}, 2, testPolls(t)); reason != "" || got != want {
		t.Errorf("decode = %+v, %q; want %+v", got, reason, want)
	}
}

// FuzzDecode: whatever a function wrote, an entry is either a vote or a reject. A vote writes back to the same
// fields; Postgres takes a reject's reason and raw form.
func FuzzDecode(f *testing.F) {
	f.Add("p", "1", "v", voter(1), "c", "1", "s", "0", "t", "5", uint64(1), uint64(2))
	f.Add("p", "\x00", "v", "\xff", "c", "99999999999999999999", "s", "+0", "t", "-0", uint64(1)<<63, uint64(1)<<48)
	polls := testPolls(f)
	f.Fuzz(func(t *testing.T, a, b, c, d, e, g, h, i, j, k string, ms, seq uint64) {
		in := entry{id: "x", at: streamID{ms, seq}, fields: []string{a, b, c, d, e, g, h, i, j, k}}
		v, reason := decode(in, 1, polls)
		if raw := in.raw(); len(raw) > 12*maxRaw || bytes.ContainsRune(raw, 0) {
			t.Fatalf("raw of %q = %d bytes, or with a NUL", in.fields, len(raw))
		}
		if reason != "" {
			if strings.ContainsFunc(reason, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("reason %q is not plain text", reason)
			}
			return
		}
		fields := map[string]string{}
		for n := 0; n < len(in.fields); n += 2 {
			fields[in.fields[n]] = in.fields[n+1]
		}
		back := map[string]string{}
		written := ballot{int(v.Poll), 0, int(v.Choice), v.Seq, v.TS}.fields()
		for n := 0; n < len(written); n += 2 {
			back[written[n].(string)] = written[n+1].(string)
		}
		back["v"] = voterEncoding.EncodeToString(v.Voter[:])
		for _, name := range []string{"p", "v", "c", "s", "t"} {
			if fields[name] != back[name] {
				t.Fatalf("field %s = %q is read as %q", name, fields[name], back[name])
			}
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("1700000000000-0")
	f.Add("-")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := parseID(s); err == nil && compareIDs(s, s) != 0 {
			t.Fatalf("%q = %+v is not itself", s, id)
		}
	})
}

func TestEntryKeysOrderAsTheStreamDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) (streamID, int32) {
			return streamID{rapid.Uint64Range(0, 1<<48-1).Draw(t, name+" ms"), rapid.Uint64Range(0, 1<<48-1).Draw(t, name+" seq")},
				rapid.Int32Range(0, 1<<31-1).Draw(t, name+" stream")
		}
		a, sa := draw("a")
		b, sb := draw("b")
		ka, ok1 := entryKey(a, sa)
		kb, ok2 := entryKey(b, sb)
		want := a.compare(b)
		if want == 0 {
			want = int(sa) - int(sb)
		}
		if got := bytes.Compare(ka[:], kb[:]); !ok1 || !ok2 || got*want < 0 || (got == 0) != (want == 0) {
			t.Fatalf("keys of %v/%d and %v/%d compare as %d, want the sign of %d", a, sa, b, sb, got, want)
		}
	})
}

func TestPollFileIsReadStrictly(t *testing.T) {
	t.Parallel()
	p, err := parsePolls([]byte(pollsText))
	if err != nil || len(p.choices) != 2 || len(p.choices[1]) != 3 || !slices.Equal(p.firsts, []int32{2}) {
		t.Errorf("parsePolls = %+v, %v", p, err)
	}
	if _, err := parsePolls([]byte(strings.Replace(pollsText, `"results":"live"`, `"results":"never"`, 1))); err == nil ||
		!strings.Contains(err.Error(), "polls[0].results") {
		t.Errorf("a file with an unknown results: %v", err)
	}
}

func FuzzParsePolls(f *testing.F) {
	f.Add([]byte(pollsText))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePolls(text)
		if err != nil {
			return
		}
		for _, id := range p.firsts {
			if len(p.choices[id]) == 0 {
				t.Fatalf("poll %d has a mode and no options", id)
			}
		}
	})
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		live := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9]{1,12}`), 1, 6, rapid.ID).Draw(t, "live")
		gone := rapid.SampledFrom(live).Draw(t, "gone")
		rest := slices.DeleteFunc(slices.Clone(live), func(w string) bool { return w == gone })
		stream := rapid.String().Draw(t, "stream")
		var owner string
		for _, w := range live {
			if owns(w, stream, live) {
				if owner != "" {
					t.Fatalf("both %s and %s own %q", owner, w, stream)
				}
				owner = w
			}
		}
		if owner == "" {
			t.Fatalf("nobody owns %q", stream)
		}
		if owner != gone && !owns(owner, stream, rest) {
			t.Fatalf("%q moved from %s because %s went", stream, owner, gone)
		}
	})
}

func TestOwnershipIsSpread(t *testing.T) {
	t.Parallel()
	live := []string{"worker-a1", "worker-a2", "worker-a3"}
	count := map[string]int{}
	for i := range 3000 {
		for _, w := range live {
			if owns(w, voter(i), live) {
				count[w]++
			}
		}
	}
	for _, w := range live {
		if count[w] < 800 || count[w] > 1200 {
			t.Errorf("%s owns %d of 3000 streams, want about 1000", w, count[w])
		}
	}
}

// The mark says that a vote has one copy; what else stands at its place is no mark, and no vote.
func TestFoldCountsVotesWithOneCopy(t *testing.T) {
	t.Parallel()
	fields := []string{"p", "1", "v", voter(5), "c", "2", "s", "3", "t", "1700000000000"}
	entries := []entry{
		{id: "7-0", at: streamID{7, 0}, fields: fields},
		{id: "8-0", at: streamID{8, 0}, fields: append(slices.Clone(fields), "k", "1")},
		{id: "9-0", at: streamID{9, 0}, fields: append(slices.Clone(fields), "k", "2")},
	}
	b := fold(1, testPolls(t), entries, "")
	if len(b.Votes) != 1 || b.Superseded != 1 || b.Single != 1 || len(b.Rejects) != 1 || b.Rejects[0].ID != "9-0" {
		t.Errorf("%d votes, %d superseded, %d with one copy, rejects %v; want 1, 1, 1 and entry 9-0", len(b.Votes), b.Superseded, b.Single, b.Rejects)
	}
}
