package crowd

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"waggle/deploy/voters/judge"
)

// ballot is a form that was fetched and can be sent any number of times, in any way it was filled in. Its cookies are
// those of the moment it was fetched, as in a tab that stays open.
type ballot struct {
	voter   string
	seq     int64
	options []option
	fields  url.Values
	cookies jar
}

type option struct {
	id          int16
	name, value string
}

// A ballot has few options; a page that claims more is not one.
const optionLimit = 1000

func accept(api bool) string {
	if api {
		return "application/json"
	}
	return "text/html"
}

// path is what the request line carries.
func (t Target) path() string { return t.URL.RequestURI() }

// parseForm reads the first form of a page that is posted: its hidden inputs, and its buttons or radio inputs as options.
func parseForm(page []byte) (*ballot, error) {
	b := &ballot{fields: url.Values{}}
	inside := false
	for tokens := html.NewTokenizer(bytes.NewReader(page)); ; {
		switch tokens.Next() {
		case html.ErrorToken:
			return nil, errors.New("the page has no whole form that is posted")
		case html.EndTagToken:
			if name, _ := tokens.TagName(); inside && string(name) == "form" {
				if len(b.options) == 0 {
					return nil, errors.New("the form has no options")
				}
				return b, nil
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			if token.DataAtom == atom.Form {
				inside = strings.EqualFold(attribute(token, "method"), "post")
			} else if inside {
				if err := b.control(token); err != nil {
					return nil, err
				}
			}
		}
	}
}

func (b *ballot) control(token html.Token) error {
	name, value := attribute(token, "name"), attribute(token, "value")
	kind := strings.ToLower(attribute(token, "type"))
	switch {
	case name == "" || token.DataAtom != atom.Input && token.DataAtom != atom.Button:
		return nil
	case kind == "hidden":
		b.fields.Add(name, value)
		return nil
	case token.DataAtom == atom.Input && kind != "radio" && kind != "submit":
		return nil
	case len(b.options) == optionLimit:
		return fmt.Errorf("the form has more than %d options", optionLimit)
	}
	b.options = append(b.options, option{name: name, value: value})
	return nil
}

func attribute(token html.Token, name string) string {
	for _, a := range token.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func parseBallot(api bool, body []byte, cookies *jar) (*ballot, error) {
	b, err := parseForm(body)
	if err != nil {
		return nil, err
	}
	b.cookies = *cookies
	return b, nil
}

func (b *ballot) fill(api bool, o int) (contentType string, body []byte) {
	return "application/x-www-form-urlencoded", []byte(b.fields.Encode())
}

func outcomeOf(api bool, got answer) judge.Outcome {
	return judge.Unknown
}
