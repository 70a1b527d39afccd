package pollfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // an image without files has no time zones
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
	// maxPerMinute is more than one replica can take.
	maxPerMinute = 1_000_000

	// In the modes last and first a voter is a cookie, in once a ballot code, in sso the subject of a signed token.
	modeLast, modeFirst, modeOnce, modeSSO = "last", "first", "once", "sso"
	resultsLive, resultsClose              = "live", "closed"
)

var (
	slugPattern  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)
	imagePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\.(svg|png|jpg|webp)$`)
	languageTags = []string{"en", "de", "es", "ar"}
	textNames    = []string{"intro", "recorded", "closed"}
	algorithms   = []string{"RS256", "ES256"}
)

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
	// MayChange lets a code or a subject vote again: the last vote counts, not the first. For the modes once and sso.
	MayChange bool `json:"may_change,omitempty"`
	// SSO says whose tokens mode sso takes.
	SSO *sso `json:"sso,omitempty"`
	// Limits bound requests; nil means no bound.
	Limits *limits `json:"limits,omitempty"`
	// Lang is the language of all texts, else each reader's. Zone is an IANA time zone, in which times stand beside UTC.
	Lang string `json:"lang,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Texts are the organiser's own: intro stands above the options, recorded and closed in those states.
	Texts map[string]string `json:"texts,omitempty"`
	// Organiser is a name; Contact and Privacy are addresses: https, http or mailto.
	Organiser string `json:"organiser,omitempty"`
	Contact   string `json:"contact,omitempty"`
	Privacy   string `json:"privacy,omitempty"`
}

type option struct {
	ID   int16  `json:"id"`
	Slug string `json:"slug"`
	Name string `json:"name"`
	// Image is a file of functions/vote/images.
	Image string `json:"image,omitempty"`
}

// sso names an OpenID Connect provider: tokens must be by Issuer for Audience, signed by a key of the set at JWKS.
type sso struct {
	Issuer     string   `json:"issuer"`
	Audience   string   `json:"audience"`
	JWKS       string   `json:"jwks"`
	Algorithms []string `json:"algorithms"`
	// Login is where a browser without a token is sent by a link; it may be empty.
	Login string `json:"login,omitempty"`
}

// limits bound the ballots that one replica takes in a minute; 0 is no bound.
type limits struct {
	VoterPerMinute   int `json:"voter_per_minute,omitempty"`
	NetworkPerMinute int `json:"network_per_minute,omitempty"`
}

// KeepsFirst reports whether the first of a voter's votes counts, and not the last.
func (p *poll) KeepsFirst() bool {
	return p.Mode == modeFirst || p.sharesVoters() && !p.MayChange
}

// sharesVoters reports whether one voter may come from several browsers, whose cookies do not know each other.
func (p *poll) sharesVoters() bool { return p.Mode == modeOnce || p.Mode == modeSSO }

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
	check(slices.Contains([]string{modeLast, modeFirst, modeOnce, modeSSO}, p.Mode), "mode", quoted(p.Mode), "must be last, first, once or sso")
	check(!p.MayChange || p.Mode == modeOnce || p.Mode == modeSSO, "may_change", p.MayChange, "is for the modes once and sso")
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
	return append(append(errs, p.validateTexts(at)...), p.validateVoters(at)...)
}

// validateTexts checks what only the pages show.
func (p *poll) validateTexts(at string) (errs []error) {
	check := func(ok bool, field string, value any, legal string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s.%s: %v: %s", at, field, value, legal))
		}
	}
	check(p.Lang == "" || slices.Contains(languageTags, p.Lang), "lang", quoted(p.Lang), "must be "+strings.Join(languageTags, ", ")+" or absent")
	_, err := time.LoadLocation(p.Zone)
	check(err == nil && p.Zone != "Local", "zone", quoted(p.Zone), "must be a time zone such as Europe/Berlin, or absent")
	for name, text := range p.Texts {
		check(slices.Contains(textNames, name), "texts", quoted(name), "must be one of "+strings.Join(textNames, ", "))
		check(legalText(text), "texts."+name, quoted(text), "must be 1 to 500 printable characters")
	}
	check(p.Organiser == "" || legalText(p.Organiser), "organiser", quoted(p.Organiser), "must be 1 to 500 printable characters, or absent")
	check(p.Contact == "" || legalAddress(p.Contact, "https", "http", "mailto"), "contact", quoted(p.Contact), "must be an https, http or mailto address, or absent")
	check(p.Privacy == "" || legalAddress(p.Privacy, "https", "http", "mailto"), "privacy", quoted(p.Privacy), "must be an https, http or mailto address, or absent")
	for i, o := range p.Options {
		check(o.Image == "" || imagePattern.MatchString(o.Image), fmt.Sprintf("options[%d].image", i), quoted(o.Image),
			"must be a file name of a-z, 0-9 and inner hyphens that ends in .svg, .png, .jpg or .webp, or absent")
	}
	return errs
}

// validateVoters checks who may vote, and how often.
func (p *poll) validateVoters(at string) (errs []error) {
	check := func(ok bool, field string, value any, legal string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s.%s: %v: %s", at, field, value, legal))
		}
	}
	check((p.SSO != nil) == (p.Mode == modeSSO), "sso", p.SSO != nil, "must be there in mode sso, and in no other")
	if s := p.SSO; s != nil {
		check(legalText(s.Issuer), "sso.issuer", quoted(s.Issuer), "must be the token's iss")
		check(legalText(s.Audience), "sso.audience", quoted(s.Audience), "must be the token's aud")
		check(legalAddress(s.JWKS, "https") || legalAddress(s.JWKS, "http") && isLoopback(s.JWKS), "sso.jwks", quoted(s.JWKS), "must be an https address")
		check(s.Login == "" || legalAddress(s.Login, "https", "http"), "sso.login", quoted(s.Login), "must be an https or http address, or absent")
		check(len(s.Algorithms) > 0, "sso.algorithms", len(s.Algorithms), "must list "+strings.Join(algorithms, ", ")+" or one of them")
		for _, a := range s.Algorithms {
			check(slices.Contains(algorithms, a), "sso.algorithms", quoted(a), "must be one of "+strings.Join(algorithms, ", "))
		}
	}
	if l := p.Limits; l != nil {
		check(l.VoterPerMinute >= 0 && l.VoterPerMinute <= maxPerMinute, "limits.voter_per_minute", l.VoterPerMinute, "must be 0 (no bound) to 1000000")
		check(l.NetworkPerMinute >= 0 && l.NetworkPerMinute <= maxPerMinute, "limits.network_per_minute", l.NetworkPerMinute, "must be 0 (no bound) to 1000000")
	}
	return errs
}

// legalAddress reports whether text is an absolute address of one of the schemes.
func legalAddress(text string, schemes ...string) bool {
	u, err := url.Parse(text)
	return err == nil && legalText(text) && slices.Contains(schemes, u.Scheme) && (u.Host != "" || u.Scheme == "mailto" && u.Opaque != "")
}

// isLoopback reports whether an address is on this machine, where a token's keys may come without TLS.
func isLoopback(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback())
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
