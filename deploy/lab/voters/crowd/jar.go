package crowd

import (
	"net/http"
	"strings"
)

// A voter has one cookie of ours and perhaps one of a proxy in front; what exceeds the bounds is dropped.
const (
	jarCookies = 4
	jarBytes   = 2048
)

// jar is the smallest cookie jar that works for one site: names and values, no paths, no dates. The zero value is empty.
type jar struct {
	pairs []string // "name=value", as the Cookie header wants them
	line  string
}

// take follows the Set-Cookie lines of an answer. It never changes a line that header has returned.
func (j *jar) take(h http.Header) {
	lines := h["Set-Cookie"]
	if len(lines) == 0 {
		return
	}
	for _, line := range lines {
		cookie, err := http.ParseSetCookie(line)
		if err != nil || len(cookie.Name)+len(cookie.Value) > jarBytes {
			continue
		}
		j.drop(cookie.Name)
		if cookie.MaxAge >= 0 && len(j.pairs) < jarCookies {
			j.pairs = append(j.pairs, cookie.Name+"="+cookie.Value)
		}
	}
	j.line = strings.Join(j.pairs, "; ")
}

func (j *jar) drop(name string) {
	for i, pair := range j.pairs {
		if strings.HasPrefix(pair, name+"=") {
			j.pairs = append(j.pairs[:i:i], j.pairs[i+1:]...)
			return
		}
	}
}

// header is the Cookie header's value, empty if there is none.
func (j *jar) header() string { return j.line }
