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

const hostPrefix = "__Host-"

// each calls f with the value of each cookie of the name, until f has enough: browsers may send several. Ours need no
// unquoting, and http.Request.Cookies would cost more than the rest of reading a visit.
func (c cookies) each(r *http.Request, name string, f func(value string) (enough bool)) {
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			is, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
			if ok && c.secure {
				is, ok = strings.CutPrefix(is, hostPrefix)
			}
			if ok && is == name && f(value) {
				return
			}
		}
	}
}

// has tells whether the browser sent a cookie of the name.
func (c cookies) has(r *http.Request, name string) (found bool) {
	c.each(r, name, func(string) bool { found = true; return true })
	return found
}

// receipts calls f with each of the receipts for the poll that the browser has, until f has enough.
func (c cookies) receipts(r *http.Request, poll int32, f func(receipt string) (enough bool)) {
	c.each(r, receiptName+strconv.Itoa(int(poll)), f)
}

// setToken gives the browser a token for so many seconds.
func (c cookies) setToken(w http.ResponseWriter, value string, seconds int64) {
	w.Header()["Set-Cookie"] = []string{string(c.end(append(c.begin(nil, tokenName), value...), seconds))}
}

// setPending gives the browser a note of a vote that nobody confirmed.
func (c cookies) setPending(w http.ResponseWriter, note string, poll int32) {
	line := append(c.begin(nil, receiptName+strconv.Itoa(int(poll))), note...)
	w.Header().Add("Set-Cookie", string(c.end(line, life)))
}

// life is for how long a browser keeps what a vote gives it, in seconds.
const life = int64(tokenLife / time.Second)

// begin and end append what stands before a cookie's value and after it. Values are of our own making and need no quoting.
func (c cookies) begin(line []byte, name string) []byte {
	if c.secure {
		line = append(line, hostPrefix...)
	}
	line = append(line, name...)
	return append(line, '=')
}

func (c cookies) end(line []byte, seconds int64) []byte {
	line = append(line, "; Path=/; Max-Age="...)
	line = strconv.AppendInt(line, seconds, 10)
	line = append(line, "; HttpOnly; SameSite=Lax"...)
	if c.secure {
		line = append(line, "; Secure"...)
	}
	return line
}
