package results

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/csv"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	//go:embed page.html
	pageSource string
	//go:embed page.css
	pageStyle string
	//go:embed live.js
	liveScript string
)

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// policy permits the page's own style and script, by their hashes, and what the script asks: this function. Nothing else.
var policy = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; img-src data:; "+
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'", sourceHash(pageStyle), sourceHash(liveScript))

func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// part is a stretch of a page that changes while somebody looks. Nothing in it can have the focus.
type part struct{ ID, HTML string }

// scene is what a template sees.
type scene struct {
	L    *language
	R    report
	Poll *pollReport // the part's poll, if it is of one
	form variant
}

// renderParts makes the parts that writePage puts into their places.
func renderParts(form variant, r report) ([]part, error) {
	s := scene{L: form.lang, R: r, form: form}
	names := []struct{ id, template string }{{"note", "note"}, {"ledger", "ledger"}, {"as-of", "as-of"}}
	var parts []part
	add := func(id, name string, s scene) error {
		var out bytes.Buffer
		if err := pageTemplate.ExecuteTemplate(&out, name, s); err != nil {
			return fmt.Errorf("rendering the page's %s: %w", name, err)
		}
		parts = append(parts, part{id, strings.TrimSpace(out.String())})
		return nil
	}
	for _, n := range names {
		if err := add(n.id, n.template, s); err != nil {
			return nil, err
		}
	}
	for i := range r.Polls {
		s.Poll = &r.Polls[i]
		for _, name := range []string{"state", "options", "turnout", "sources"} {
			if err := add(name+"-"+strconv.Itoa(int(s.Poll.ID)), name, s); err != nil {
				return nil, err
			}
		}
	}
	return parts, nil
}

// writePage writes a whole page.
func writePage(out io.Writer, form variant, r report, parts []part, l links) error {
	byID := map[string]template.HTML{}
	for _, p := range parts {
		byID[p.ID] = template.HTML(p.HTML) //nolint:gosec // made by the same templates
	}
	data := struct {
		scene
		Style   template.CSS
		Script  template.JS
		VoteURL string
		Part    func(name string, poll int32) template.HTML
	}{scene{L: form.lang, R: r, form: form}, template.CSS(pageStyle), template.JS(liveScript), l.vote, //nolint:gosec // embedded
		func(name string, poll int32) template.HTML {
			if poll != 0 {
				name += "-" + strconv.Itoa(int(poll))
			}
			return byID[name]
		}}
	if err := pageTemplate.ExecuteTemplate(out, "page", data); err != nil {
		return fmt.Errorf("rendering the page: %w", err)
	}
	return nil
}

// Sheet reports whether this is the announcer's sheet, Live whether the page renews itself.
func (s scene) Sheet() bool { return s.form.sheet }

// Live reports whether the page renews itself.
func (s scene) Live() bool { return !s.form.still }

// Polled reports whether the page is of one poll alone.
func (s scene) Polled() bool { return s.form.poll != "" }

// Total is the number of the poll's votes.
func (s scene) Total() int64 { return *s.Poll.Total }

// Presses is the number of entries that were counted for the poll.
func (s scene) Presses() int64 { return s.Poll.presses() }

// Replaced is the number of presses that another one of the same voter outdid.
func (s scene) Replaced() int64 { return max(0, s.Poll.presses()-*s.Poll.Total) }

// ISO is a moment for programs.
func (s scene) ISO(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// cell is a number with the heading of its column.
type cell struct{ Label, Number string }

// Row are a stream's numbers in the order of the ledger's columns.
func (s scene) Row(captured, counted, pending, rejected, lost int64) []cell {
	return []cell{{s.L.Text("captured"), s.L.Number(captured)}, {s.L.Text("counted"), s.L.Number(counted)},
		{s.L.Text("pending"), s.L.Number(pending)}, {s.L.Text("rejected"), s.L.Number(rejected)}, {s.L.Text("lost"), s.L.Number(lost)}}
}

// Query is the address of another form of this page: the poll, the view and the language stay unless they are given anew.
func (s scene) Query(pairs ...string) string {
	values := map[string]string{"poll": s.form.poll, "lang": s.form.asked}
	if s.form.sheet {
		values["view"] = "sheet"
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		values[pairs[i]] = pairs[i+1]
	}
	var query []string
	for _, name := range []string{"poll", "view", "format", "live", "lang"} {
		if values[name] != "" {
			query = append(query, name+"="+values[name])
		}
	}
	return "?" + strings.Join(query, "&")
}

// Age is the age of a moment and the moment.
func (s scene) Age(t time.Time) string { return s.L.seen(t, s.R.now) }

// Rows are the options: as on the ballot, or by votes on the announcer's sheet.
func (s scene) Rows() []optionReport {
	rows := slices.Clone(s.Poll.Options)
	if s.Sheet() && !s.Poll.Hidden {
		slices.SortStableFunc(rows, func(a, b optionReport) int { return int(min(1, max(-1, *b.Votes-*a.Votes))) })
	}
	return rows
}

// Rank is an option's place by votes; options with the same number share one.
func (s scene) Rank(o optionReport) int {
	rank := 1
	for _, other := range s.Poll.Options {
		if *other.Votes > *o.Votes {
			rank++
		}
	}
	return rank
}

// Name is an option's name for people.
func (s scene) Name(o optionReport) string {
	if o.gone {
		return s.L.Text("gone", o.ID)
	}
	return o.Name
}

// Why are the reasons for which a poll is not final or the ledger not whole, as sentences.
func (s scene) Why(reasons []reason) []string {
	zone := ""
	if s.Poll != nil {
		zone = s.Poll.Zone
	}
	var all []string
	for _, r := range reasons {
		all = append(all, s.L.reason(r, s.R.now, zone))
	}
	return all
}

// Trouble is the colour of a stream's row: red for what is lost, amber for what may still come.
func (s scene) Trouble(st stream) string {
	switch {
	case st.Lost > 0:
		return "bad"
	case st.State == streamMissing || st.Pending > 0 || st.Rejected > 0:
		return "warn"
	}
	return ""
}

// formulaStart are the characters at which spreadsheets take a text for a formula.
const formulaStart = "=+-@\t\r"

// writeCSV writes one line per option: RFC 4180, UTF-8, numbers in digits alone.
func writeCSV(out io.Writer, r report) error {
	w := csv.NewWriter(out)
	w.UseCRLF = true
	rows := [][]string{{"poll", "question", "state", "final", "option", "name", "votes", "share_percent", "total", "leads", "as_of", "stale"}}
	number := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	for _, p := range r.Polls {
		for _, o := range p.Options {
			share := ""
			if o.Share != nil {
				share = strconv.FormatFloat(*o.Share, 'f', 2, 64)
			}
			rows = append(rows, []string{p.Slug, p.Question, p.State, strconv.FormatBool(p.Final), o.Slug, o.Name, number(o.Votes), share,
				number(p.Total), strconv.FormatBool(o.Leads), r.Ledger.AsOf.UTC().Format(time.RFC3339), strconv.FormatBool(r.Stale)})
		}
	}
	for _, row := range rows {
		for i, text := range row {
			if text != "" && strings.ContainsRune(formulaStart, rune(text[0])) {
				row[i] = "'" + text
			}
		}
	}
	if err := w.WriteAll(rows); err != nil {
		return fmt.Errorf("writing CSV: %w", err)
	}
	return nil
}
