package results

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// question is what a request asks for.
type question struct {
	form    variant
	receipt *string // the receipt to look up, "" for the empty form; nil if the question is for the count
	once    bool    // of a stream: what it would begin with, alone
}

// question reads a request. Where a name stands twice in the query, the first legal value counts. The problem, if any,
// can be answered in the form of the question.
func (h *handler) question(r *http.Request) (question, *problem) {
	q := question{form: variant{format: accepted(r.Header.Values("Accept"))}}
	query, err := url.ParseQuery(r.URL.RawQuery)
	q.form.asked = first(query["lang"], func(code string) bool { return languageOf(code, "").Code == code })
	known := func(slug string) bool {
		return slices.ContainsFunc(h.polls, func(p poll) bool { return p.Slug == slug })
	}
	q.form.poll = first(query["poll"], known)
	q.form.lang = languageOf(cmp.Or(q.form.asked, h.languageOfPoll(q.form.poll)), strings.Join(r.Header.Values("Accept-Language"), ","))
	if err != nil {
		return q, &problem{http.StatusBadRequest, "bad_query", fmt.Sprintf("The query of the address is malformed: %v.", err)}
	}
	q.form.still = slices.Contains(query["live"], "0")
	q.form.sheet = slices.Contains(query["view"], "sheet")
	q.once = query.Has("once")
	if format := format(first(query["format"], legalFormat)); format != "" {
		q.form.format = format
	} else if given := first(query["format"], nonempty); given != "" {
		return q, &problem{http.StatusBadRequest, "bad_format", fmt.Sprintf("format=%s: must be html, json, csv or events.", quoted(given))}
	}
	if receipts, asked := query["receipt"]; asked {
		text := first(receipts, nonempty)
		q.receipt = &text
	}
	if q.form.poll == "" {
		if given := first(query["poll"], nonempty); given != "" {
			return q, &problem{http.StatusNotFound, "unknown_poll",
				fmt.Sprintf("There is no poll %s; there are: %s.", quoted(given), h.slugs())}
		}
	}
	return q, nil
}

// languageOfPoll is the language that the organiser chose for the poll with a slug, or for the only poll; else "".
func (h *handler) languageOfPoll(slug string) string {
	for i := range h.polls {
		if p := &h.polls[i]; p.Slug == slug || len(h.polls) == 1 {
			return p.Lang
		}
	}
	return ""
}

// maxListed bounds the polls that an error lists.
const maxListed = 20

func (h *handler) slugs() string {
	var slugs []string
	for i, p := range h.polls {
		if i == maxListed {
			slugs = append(slugs, fmt.Sprintf("and %d more", len(h.polls)-maxListed))
			break
		}
		slugs = append(slugs, p.Slug)
	}
	return strings.Join(slugs, ", ")
}

// first returns the first of several values that is legal, or "".
func first(values []string, legal func(string) bool) string {
	for _, v := range values {
		if legal(v) {
			return v
		}
	}
	return ""
}

func nonempty(text string) bool { return text != "" }

func legalFormat(text string) bool { _, ok := contentTypes[format(text)]; return ok }

// accepted is the form that Accept prefers: the highest q counts, of equals a page, then the first.
func accepted(lines []string) format {
	best, weight := formatHTML, 0.0
	for _, item := range strings.Split(strings.Join(lines, ","), ",") {
		kind, parameters, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		q := 1.0
		if given, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			q = given
		}
		for f, contentType := range contentTypes {
			if name, _, _ := strings.Cut(contentType, ";"); name == kind && (q > weight || q == weight && f == formatHTML) {
				best, weight = f, q
			}
		}
	}
	return best
}

// problem is an answer that is no result.
type problem struct {
	status  int
	code    string
	message string
}

// style is the pages' style sheet, whose hash the policy names.
var style = template.CSS(pageStyle) //nolint:gosec // embedded

// answer tells a browser in a page and a program in JSON.
func (p *problem) answer(w http.ResponseWriter, form variant) {
	if form.format == formatHTML {
		writeTemplate(w, p.status, "problem", struct {
			L             *language
			Style         template.CSS
			Message, Home string
		}{form.lang, style, p.message, "?"})
		return
	}
	body, err := json.Marshal(map[string]string{"status": "error", "code": p.code, "message": p.message})
	if err != nil {
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	allowReading(w.Header())
	w.Header().Set("Content-Type", contentTypes[formatJSON])
	w.WriteHeader(p.status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}

func writeTemplate(w http.ResponseWriter, status int, name string, data any) {
	var out bytes.Buffer
	if err := pageTemplate.ExecuteTemplate(&out, name, data); err != nil {
		http.Error(w, "rendering the page", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentTypes[formatHTML])
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the client may be gone
}
