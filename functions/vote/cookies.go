package vote

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// cookies names and writes them for one request. Behind https the names begin with __Host-, which browsers accept
// only from this very host, over TLS: nobody else can plant a token. Over http, as on a first try-out, they are plain.
type cookies struct{ secure bool }

const (
	tokenName   = "waggle"
	receiptName = "waggle-receipt-" // followed by the poll's id
)

func (c cookies) name(name string) string {
	if c.secure {
		return "__Host-" + name
	}
	return name
}

// values are those of all cookies of the name: browsers may send several. Ours need no unquoting, and http.Request.Cookies
// would cost more than the rest of reading a visit.
func (c cookies) values(r *http.Request, name string) []string {
	var all []string
	name = c.name(name)
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			if is, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && is == name {
				all = append(all, value)
			}
		}
	}
	return all
}

// receipts are the receipts for the poll that the browser has.
func (c cookies) receipts(r *http.Request, poll int32) []string {
	return c.values(r, receiptName+strconv.Itoa(int(poll)))
}

// setToken gives the browser a token for so many seconds.
func (c cookies) setToken(w http.ResponseWriter, value string, seconds int64) {
	w.Header()["Set-Cookie"] = []string{c.line(tokenName, value, seconds)}
}

// setPending gives the browser a note of a vote that nobody confirmed.
func (c cookies) setPending(w http.ResponseWriter, note string, poll int32) {
	w.Header().Add("Set-Cookie", c.line(receiptName+strconv.Itoa(int(poll)), note, int64(tokenLife/time.Second)))
}

// setVoted gives the browser the token of the next vote and the receipt of this one.
func (c cookies) setVoted(w http.ResponseWriter, token, receipt string, poll int32) {
	life := int64(tokenLife / time.Second)
	w.Header()["Set-Cookie"] = []string{
		c.line(tokenName, token, life),
		c.line(receiptName+strconv.Itoa(int(poll)), receipt, life),
	}
}

// line writes one Set-Cookie; values are of our own making and need no quoting.
func (c cookies) line(name, value string, seconds int64) string {
	line := make([]byte, 0, 384)
	line = append(line, c.name(name)...)
	line = append(line, '=')
	line = append(line, value...)
	line = append(line, "; Path=/; Max-Age="...)
	line = strconv.AppendInt(line, seconds, 10)
	line = append(line, "; HttpOnly; SameSite=Lax"...)
	if c.secure {
		line = append(line, "; Secure"...)
	}
	return string(line)
}
