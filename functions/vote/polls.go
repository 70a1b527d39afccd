package vote

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// This file defines the poll file. It belongs to package functions/pollfile, which the worker and the deploy program
// import. A function imports nothing of ours, so the functions vote and results each have a copy with another package
// line. Edit it in functions/pollfile and run go generate there; a test finds a copy that differs.

const (
	maxPollFile = 1 << 20
	maxPolls    = 1000
	maxOptions  = 100
	// maxText bounds a question or a name, in characters.
	maxText = 500

	modeLast, modeFirst       = "last", "first"
	resultsLive, resultsClose = "live", "closed"
)

var slugPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

// poll is one question. Times are instants: votes count from opens, up to but not including closes.
type poll struct {
	ID       int32     `json:"id"`
	Slug     string    `json:"slug"`
	Question string    `json:"question"`
	Options  []option  `json:"options"`
	Opens    time.Time `json:"opens"`
	Closes   time.Time `json:"closes"`
	Mode     string    `json:"mode"`
	Results  string    `json:"results"`
}

type option struct {
	ID   int16  `json:"id"`
	Slug string `json:"slug"`
	Name string `json:"name"`
}

// state is "waiting", "open" or "closed".
func (p *poll) state(now time.Time) string {
	switch {
	case now.Before(p.Opens):
		return "waiting"
	case now.Before(p.Closes):
		return "open"
	}
	return "closed"
}

// KeepsFirst reports whether the first of a voter's votes counts, and not the last.
func (p *poll) KeepsFirst() bool { return p.Mode == modeFirst }

// parsePolls reads a poll file. The error names every mistake in it, each with its place and what is legal.
func parsePolls(data []byte) ([]poll, error) {
	if len(data) > maxPollFile {
		return nil, fmt.Errorf("poll file: %d bytes: at most %d are legal", len(data), maxPollFile)
	}
	var file struct {
		Polls []poll `json:"polls"`
	}
	if err := decodeStrictly(data, &file); err != nil {
		return nil, fmt.Errorf("poll file: %w", err)
	}
	if len(file.Polls) == 0 || len(file.Polls) > maxPolls {
		return nil, fmt.Errorf("poll file: polls: %d of them: 1 to %d are legal", len(file.Polls), maxPolls)
	}
	var errs []error
	ids, slugs := map[int32]bool{}, map[string]bool{}
	for i := range file.Polls {
		p := &file.Polls[i]
		errs = append(errs, p.validate(fmt.Sprintf("polls[%d]", i))...)
		if ids[p.ID] || slugs[p.Slug] {
			errs = append(errs, fmt.Errorf("polls[%d]: id %d or slug %q: must be unique", i, p.ID, p.Slug))
		}
		ids[p.ID], slugs[p.Slug] = true, true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("poll file: %w", err)
	}
	return file.Polls, nil
}

func (p *poll) validate(at string) (errs []error) {
	check := func(ok bool, field string, value any, legal string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s.%s: %v: %s", at, field, value, legal))
		}
	}
	check(p.ID >= 1, "id", p.ID, "must be from 1 to 2147483647")
	check(slugPattern.MatchString(p.Slug), "slug", quoted(p.Slug), "must be 1 to 64 of a-z, 0-9 and inner hyphens")
	check(legalText(p.Question), "question", quoted(p.Question), "must be 1 to 500 printable characters")
	check(!p.Opens.IsZero(), "opens", p.Opens, "must be an RFC 3339 time")
	check(p.Opens.Before(p.Closes), "closes", p.Closes.Format(time.RFC3339), "must be after opens")
	check(p.Mode == modeLast || p.Mode == modeFirst, "mode", quoted(p.Mode), "must be last or first")
	check(p.Results == resultsLive || p.Results == resultsClose, "results", quoted(p.Results), "must be live or closed")
	check(len(p.Options) >= 2 && len(p.Options) <= maxOptions, "options", len(p.Options), "must be 2 to 100")
	ids, slugs := map[int16]bool{}, map[string]bool{}
	for i, o := range p.Options {
		field := fmt.Sprintf("options[%d].", i)
		check(o.ID >= 1 && !ids[o.ID], field+"id", o.ID, fmt.Sprintf("must be unique, from 1 to %d", math.MaxInt16))
		check(slugPattern.MatchString(o.Slug) && !slugs[o.Slug], field+"slug", quoted(o.Slug),
			"must be unique, 1 to 64 of a-z, 0-9 and inner hyphens")
		check(legalText(o.Name), field+"name", quoted(o.Name), "must be 1 to 500 printable characters")
		ids[o.ID], slugs[o.Slug] = true, true
	}
	return errs
}

// decodeStrictly decodes one JSON value. It also refuses what encoding/json takes in silence: an unknown key, a key in
// another case, a key twice, and text after the value.
func decodeStrictly(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("decoding: %s: %s is not legal there", wrong.Field, wrong.Value) // its own text names Go types
	}
	if err != nil {
		return fmt.Errorf("decoding: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text after the end of the value")
	}
	return checkKeys(json.NewDecoder(bytes.NewReader(data)))
}

// checkKeys reads one value of well-formed JSON and checks the keys of all its objects.
func checkKeys(decoder *json.Decoder) error {
	start, err := decoder.Token()
	if err != nil {
		return fmt.Errorf("reading keys: %w", err)
	}
	seen := map[string]bool{}
	for (start == json.Delim('{') || start == json.Delim('[')) && decoder.More() {
		if start == json.Delim('{') {
			token, err := decoder.Token()
			if err != nil {
				return fmt.Errorf("reading keys: %w", err)
			}
			key, _ := token.(string)
			if seen[key] {
				return fmt.Errorf("key %s: is there twice", quoted(key))
			}
			if key != strings.ToLower(key) {
				return fmt.Errorf("key %s: must be in lower case", quoted(key))
			}
			seen[key] = true
		}
		if err := checkKeys(decoder); err != nil {
			return err
		}
	}
	if start == json.Delim('{') || start == json.Delim('[') {
		_, err = decoder.Token()
	}
	return err
}

func legalText(s string) bool {
	return strings.TrimSpace(s) != "" && utf8.ValidString(s) && utf8.RuneCountInString(s) <= maxText &&
		strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// quoted keeps a long or strange value from filling the message.
func quoted(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q… (%d bytes)", s[:80], len(s))
	}
	return fmt.Sprintf("%q", s)
}
