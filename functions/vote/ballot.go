package vote

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxBody bounds a POST; a ballot has some 200 bytes.
const maxBody = 4 << 10

// ballot is what a voter sent, not yet judged. Seq is 0 when the body had none.
type ballot struct {
	poll   string
	choice string
	seq    int64
	nonce  string
	code   string // a ballot code, for mode once
}

// readBallot reads and parses the body of a POST.
func readBallot(v *visit) (ballot, *problem) {
	body, err := readBody(v.scratch[:0], v.r.Body)
	v.scratch = body
	switch {
	case len(body) > maxBody:
		v.w.Header()["Connection"] = []string{"close"} // the rest is not read
		return ballot{}, newProblem(http.StatusRequestEntityTooLarge, "too_large", strconv.Itoa(maxBody))
	case err != nil:
		return ballot{}, badBody("The ballot did not arrive whole.")
	}
	text := string(body)
	if v.body == formBody {
		return parseForm(text)
	}
	return parseJSON(text)
}

// readBody appends r to b, up to one byte more than is legal.
func readBody(b []byte, r io.Reader) ([]byte, error) {
	b = slices.Grow(b, maxBody+1)
	for len(b) <= maxBody {
		n, err := r.Read(b[len(b) : maxBody+1])
		b = b[:len(b)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

func badBody(format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, code: "bad_body", text: fmt.Sprintf(format, args...)}
}

// parseForm takes the fields poll, choice, seq, nonce and code, each at most once, and ignores others.
func parseForm(body string) (ballot, *problem) {
	var b ballot
	var seq string
	var seen [5]bool
	for pair := range strings.SplitSeq(body, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, nameErr := url.QueryUnescape(name) // which copies only what has an escape
		value, valueErr := url.QueryUnescape(value)
		if nameErr != nil || valueErr != nil || strings.Contains(pair, ";") {
			return ballot{}, badBody("The form is malformed: fields are name=value, joined by &.")
		}
		field, to := 0, &b.poll
		switch name {
		case "poll":
		case "choice":
			field, to = 1, &b.choice
		case "seq":
			field, to = 2, &seq
		case "nonce":
			field, to = 3, &b.nonce
		case "code":
			field, to = 4, &b.code
		default:
			continue
		}
		if seen[field] {
			return ballot{}, badBody("The field %s is there twice: once is legal.", name)
		}
		seen[field], *to = true, value
	}
	if seq != "" {
		n, ok := decimal(seq, 1, maxSeq)
		if !ok {
			return ballot{}, badBody("The field seq is %s: it must be a whole number from 1.", quoted(seq))
		}
		b.seq = n
	}
	return b, nil
}

// parseJSON takes {"poll": "…", "choice": "…"}, in mode once with "code", and nothing else. encoding/json would
// accept a key twice, or in another case. That is another ballot than its sender meant. Its errors also name Go
// types.
func parseJSON(body string) (ballot, *problem) {
	var b ballot
	fields := jsonObject{rest: strings.TrimLeft(body, jsonSpace)}
	if !fields.take('{') {
		return ballot{}, badBody("The JSON is not an object: send %s.", jsonForm)
	}
	var seen [3]bool
	for first := true; !fields.take('}'); first = false {
		if !first && !fields.take(',') {
			return ballot{}, badBody("The JSON is malformed: send %s.", jsonForm)
		}
		key, keyOK := fields.text()
		if !keyOK || !fields.take(':') {
			return ballot{}, badBody("The JSON is malformed: send %s.", jsonForm)
		}
		field, to := 0, &b.poll
		switch key {
		case "poll":
		case "choice":
			field, to = 1, &b.choice
		case "code":
			field, to = 2, &b.code
		default:
			return ballot{}, badBody("The key %s is not known: send %s.", quoted(key), jsonForm)
		}
		if seen[field] {
			return ballot{}, badBody("The key %s is there twice: once is legal.", quoted(key))
		}
		seen[field] = true
		if *to, keyOK = fields.text(); !keyOK {
			return ballot{}, badBody("The value of %s must be a string: send %s.", quoted(key), jsonForm)
		}
	}
	if len(fields.rest) > 0 {
		return ballot{}, badBody("There is text after the JSON object.")
	}
	return b, nil
}

const (
	jsonForm  = `{"poll":"…","choice":"…"}`
	jsonSpace = " \t\r\n"
)

// jsonObject reads a flat object of strings. rest begins with the next token.
type jsonObject struct{ rest string }

func (o *jsonObject) take(c byte) bool {
	if len(o.rest) == 0 || o.rest[0] != c {
		return false
	}
	o.rest = strings.TrimLeft(o.rest[1:], jsonSpace)
	return true
}

// text takes a string. encoding/json unquotes it, and only if there is a need.
func (o *jsonObject) text() (string, bool) {
	if len(o.rest) == 0 || o.rest[0] != '"' {
		return "", false
	}
	plain, end := true, 1
	for ; end < len(o.rest) && o.rest[end] != '"'; end++ {
		c := o.rest[end]
		plain = plain && c >= ' ' && c < 0x80 && c != '\\'
		if c == '\\' {
			end++
		}
	}
	if end >= len(o.rest) {
		return "", false
	}
	literal := o.rest[:end+1]
	o.rest = strings.TrimLeft(o.rest[end+1:], jsonSpace)
	if plain {
		return literal[1:end], true
	}
	var s string
	err := json.Unmarshal([]byte(literal), &s)
	return s, err == nil
}

// find sets the visit's paper to the ballot's poll and returns the chosen option. The poll must exist and be open.
func (h *handler) find(v *visit, b ballot) (*paperOption, *problem) {
	if b.poll != "" {
		v.paper = h.papers[b.poll]
	}
	if v.paper == nil && b.poll == "" {
		return nil, newProblem(http.StatusBadRequest, "no_poll", h.slugs)
	}
	if v.paper == nil {
		return nil, h.unknownPoll(b.poll)
	}
	switch poll := v.paper.poll; poll.state(v.now) {
	case "waiting":
		return nil, newProblem(http.StatusConflict, "not_open", v.language().moment(poll.Opens, poll.Zone))
	case "closed":
		return nil, newProblem(http.StatusConflict, "closed", v.language().moment(poll.Closes, poll.Zone))
	}
	chosen := v.paper.option(b.choice)
	if chosen == nil {
		return nil, newProblem(http.StatusBadRequest, "unknown_choice", quoted(b.choice), v.paper.optionSlugs())
	}
	return chosen, nil
}
