package drain

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"waggle/worker/store"
)

// maxRaw bounds what is kept of an entry that is no vote; a vote takes about 80 bytes.
const maxRaw = 64 << 10

// genesisID is the id of the stream's first entry, which is no vote and is left out of every count.
const genesisID = "0-1"

// streamID is a Redis stream entry id.
type streamID struct{ ms, seq uint64 }

// parseID reads "milliseconds-counter", both decimal.
func parseID(s string) (streamID, error) {
	a, b, ok := strings.Cut(s, "-")
	ms, err1 := strconv.ParseUint(a, 10, 64)
	seq, err2 := strconv.ParseUint(b, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return streamID{}, fmt.Errorf("stream id %q: it must be two decimal numbers joined by a hyphen", s)
	}
	return streamID{ms, seq}, nil
}

func (a streamID) String() string { return fmt.Sprintf("%d-%d", a.ms, a.seq) }

func (a streamID) compare(b streamID) int {
	return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(a.seq, b.seq))
}

// entry is one stream entry as read: fields are name, value, name, value and so on.
type entry struct {
	id     string
	at     streamID
	fields []string
}

// raw renders an entry for the reject table: quoted strings, reversible, bounded.
func (e entry) raw() []byte {
	var out []byte
	for _, f := range e.fields {
		if len(out)+len(f) > maxRaw {
			out = strconv.AppendQuote(out, f[:max(0, min(len(f), maxRaw-len(out)))])
			return append(out, " (cut)"...)
		}
		out = append(strconv.AppendQuote(out, f), ' ')
	}
	return out
}

// entryKey is the entry's part of the order key; see package store's schema. It is empty when the id does not fit, which
// only an id given by hand can bring about.
func entryKey(at streamID, stream int32) (key [16]byte, ok bool) {
	if at.ms >= 1<<48 || at.seq >= 1<<48 || stream < 0 {
		return key, false
	}
	binary.BigEndian.PutUint64(key[0:8], at.ms<<16|at.seq>>32)
	binary.BigEndian.PutUint32(key[8:12], uint32(at.seq))
	binary.BigEndian.PutUint32(key[12:16], uint32(stream))
	return key, true
}

// voterEncoding is strict, so that a voter has one spelling only.
var voterEncoding = base64.RawURLEncoding.Strict()

// unmarked takes the mark "k 1" off an entry, which function vote adds, last, to a vote that it acknowledged with one copy.
func (e entry) unmarked() (vote entry, single bool) {
	if n := len(e.fields); n == 12 && e.fields[10] == "k" && e.fields[11] == "1" {
		e.fields = e.fields[:10]
		return e, true
	}
	return e, false
}

// decode reads the fields that function vote writes: p poll, v voter, c choice, s sequence, t capture time in Unix
// ms. Each comes exactly once, in any order, and nothing else. It returns the vote, or the reason why the entry is
// none. The reason is one of a few constant texts, because the values themselves may be anything.
func decode(e entry, stream int32, polls *Polls) (v store.Vote, reason string) {
	if len(e.fields) != 10 {
		return v, "not the five fields p, v, c, s, t"
	}
	var ok bool
	if v.EID, ok = entryKey(e.at, stream); !ok {
		return v, "entry id out of range"
	}
	var seen uint8
	for i := 0; i < len(e.fields); i += 2 {
		name, value := e.fields[i], e.fields[i+1]
		var bit uint8
		var n int64
		switch name {
		case "p":
			bit, reason = 1, "p is no poll id: decimal, 1 to 2147483647"
			n, ok = decimal(value, 1, 1<<31-1)
			v.Poll = int32(n)
		case "v":
			bit, reason = 2, "v is no voter: 22 characters of base64url"
			ok = decodeVoter(&v.Voter, value)
		case "c":
			bit, reason = 4, "c is no choice: decimal, 1 to 32767"
			n, ok = decimal(value, 1, 1<<15-1)
			v.Choice = int16(n)
		case "s":
			bit, reason = 8, "s is no sequence: decimal, 0 to 9223372036854775807"
			v.Seq, ok = decimal(value, 0, 1<<63-1)
		case "t":
			bit, reason = 16, "t is no time: decimal Unix ms, 1 to 9223372036854775807"
			v.TS, ok = decimal(value, 1, 1<<63-1)
		default:
			return v, "a field other than p, v, c, s, t"
		}
		if !ok {
			return v, reason
		}
		if seen&bit != 0 {
			return v, "a field twice"
		}
		seen |= bit
	}
	return v, polls.refuse(v.Poll, v.Choice)
}

// decimal accepts the canonical form alone: no sign, no leading zero.
func decimal(s string, low, high int64) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high || s[0] == '+' || s[0] == '0' && len(s) > 1 || s == "-0" {
		return 0, false
	}
	return n, true
}

func decodeVoter(to *[16]byte, s string) bool {
	var buf [18]byte
	// Decode skips line breaks, which would give a voter a second spelling.
	if len(s) != 22 || strings.ContainsAny(s, "\r\n") {
		return false
	}
	n, err := voterEncoding.Decode(buf[:], []byte(s))
	copy(to[:], buf[:16])
	return err == nil && n == 16
}
