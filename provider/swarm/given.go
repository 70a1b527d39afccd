package swarm

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// given reads what a deployment says in one of its maps. An illegal value is noted, and read as if it were absent; so is
// an empty one, which is legal.
type given struct {
	// kind stands before a key in a message: "label ", "annotation ".
	kind   string
	values map[string]string
	wrong  *mistakes
}

// mistakes is what is wrong with a request, so that one answer names all of it.
type mistakes []string

// err is nil, or one error of kind ErrInvalid.
func (m mistakes) err() error {
	if len(m) == 0 {
		return nil
	}
	return failf(ErrInvalid, "%s", strings.Join(m, "; "))
}

// illegal notes that the value of key is not what it must be.
func (g given) illegal(key, value, must string, args ...any) {
	*g.wrong = append(*g.wrong, fmt.Sprintf("%s%s is %q: must be %s", g.kind, key, shorten(value), fmt.Sprintf(must, args...)))
}

func (g given) whole(key string, absent, least, most uint64) uint64 {
	text := g.values[key]
	if text == "" {
		return absent
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most {
		g.illegal(key, text, "a whole number from %d to %d", least, most)
		return absent
	}
	return n
}

func (g given) boolean(key string, absent bool) bool {
	switch text := g.values[key]; text {
	case "true":
		return true
	case "false":
		return false
	case "":
	default:
		g.illegal(key, text, "true or false")
	}
	return absent
}

func (g given) duration(key string, absent, least, most time.Duration) time.Duration {
	text := g.values[key]
	if text == "" {
		return absent
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		g.illegal(key, text, "a duration such as 90s, from %s to %s", least, most)
		return absent
	}
	return d
}
