package crowd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"waggle/deploy/lab/voters/judge"
)

// This file is all that is known here of functions/vote: its cookie, its form, its JSON and its answers.

// ballot is a form that was fetched and can be sent any number of times, in any way it was filled in. Its cookies are
// those of the moment it was fetched, as in a tab that stays open.
type ballot struct {
	voter   string
	seq     int64
	fields  url.Values
	cookies jar
}

// Option is one choice: what a form calls it and what the books call it.
type Option struct {
	Slug string
	ID   int16
}

func accept(api bool) string {
	if api {
		return "application/json"
	}
	return "text/html"
}

// readBallot understands a page, or the JSON in its place. With JSON the cookie alone makes the ballot.
func readBallot(api bool, poll string, body []byte, cookies jar) (*ballot, error) {
	b := &ballot{}
	if !api {
		var err error
		if b.fields, err = readForm(body, poll); err != nil {
			return nil, err
		}
	}
	return b.with(cookies)
}

// with is the same form in a browser that has these cookies by now. A vote's sequence is the cookie's, or the
// form's if that is higher. So a form that stayed open while its voter voted is the newest vote when it is
// submitted.
func (b *ballot) with(cookies jar) (*ballot, error) {
	voter, seq, err := readToken(&cookies)
	if err != nil {
		return nil, err
	}
	if b.fields != nil {
		rendered, err := strconv.ParseInt(b.fields.Get("seq"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the form's field seq: %w", err)
		}
		seq = max(seq, rendered)
	}
	return &ballot{voter: voter, seq: seq, fields: b.fields, cookies: cookies}, nil
}

// readToken finds the voter's id and sequence in the cookie v1.<voter>.<seq>.<exp>.<kid>.<signature>, whatever its name.
func readToken(cookies *jar) (voter string, seq int64, err error) {
	for _, pair := range cookies.pairs {
		_, value, _ := strings.Cut(pair, "=")
		parts := strings.Split(value, ".")
		if len(parts) != 6 || parts[0] != "v1" {
			continue
		}
		if seq, err = strconv.ParseInt(parts[2], 10, 64); err != nil {
			return "", 0, fmt.Errorf("reading the cookie's sequence: %w", err)
		}
		return parts[1], seq, nil
	}
	return "", 0, errors.New("no cookie v1.<voter>.<seq>.<exp>.<kid>.<signature>")
}

// readForm reads the hidden fields of the page's form for the poll.
func readForm(page []byte, poll string) (url.Values, error) {
	var fields url.Values
	for tokens := html.NewTokenizer(bytes.NewReader(page)); ; {
		switch tokens.Next() {
		case html.ErrorToken:
			return nil, fmt.Errorf("the page has no form that is posted for poll %s", poll)
		case html.EndTagToken:
			if name, _ := tokens.TagName(); string(name) == "form" {
				if fields.Get("poll") == poll {
					return fields, nil
				}
				fields = nil
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			switch {
			case token.DataAtom == atom.Form && strings.EqualFold(attribute(token, "method"), "post"):
				fields = url.Values{}
			case token.DataAtom == atom.Input && fields != nil && strings.EqualFold(attribute(token, "type"), "hidden"):
				fields.Add(attribute(token, "name"), attribute(token, "value"))
			}
		}
	}
}

func attribute(token html.Token, name string) string {
	for _, a := range token.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// fill makes the request's body for one choice.
func (b *ballot) fill(api bool, poll, choice string) (contentType string, body []byte) {
	if api {
		return "application/json", fmt.Appendf(nil, `{"poll":%q,"choice":%q}`, poll, choice)
	}
	return "application/x-www-form-urlencoded", []byte(b.fields.Encode() + "&choice=" + url.QueryEscape(choice))
}

// outcomeOf says what an answer means to the voter. Only a redirection to the page or a receipt is a promise. A
// refusal is final only if no other replica could answer differently. 408, 425 and 429 may be a gateway's that
// has already sent the vote elsewhere, and a 5xx never tells.
func outcomeOf(api bool, got answer) judge.Outcome {
	switch {
	case !api && got.status == http.StatusSeeOther:
		return judge.Acked
	case api && got.status == http.StatusOK && hasReceipt(got.body):
		return judge.Acked
	case got.status == http.StatusRequestTimeout, got.status == http.StatusTooEarly, got.status == http.StatusTooManyRequests:
		return judge.Unknown
	case got.status >= 400 && got.status < 500:
		return judge.Refused
	}
	return judge.Unknown
}

func hasReceipt(body []byte) bool {
	var fields struct {
		Receipt string `json:"receipt"`
	}
	return json.Unmarshal(body, &fields) == nil && fields.Receipt != ""
}
