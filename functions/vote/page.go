package vote

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"html/template"
	"regexp"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

//go:embed script.js
var scriptSource string

// pageScript is the script without the lines that are comments: they are no voter's to load.
var pageScript = regexp.MustCompile(`(?m)^//.*\n`).ReplaceAllString(scriptSource, "")

// policy permits the page's own style and script, by their hashes, its own images and its own form; nothing else, and
// no frame around it.
var policy = "default-src 'none'; style-src '" + hashOf(pageStyle) + "'; script-src '" + hashOf(pageScript) + "'; " +
	"img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// ballotPaper is a poll as the function serves it.
type ballotPaper struct {
	poll       *poll
	args       *pollArgs
	pseudonyms *mac
	options    []paperOption
	sheets     map[*language]*sheet
	limits     *limiters
	// receiptCookie is the name of the cookie with the receipt. Location and kept are where a form's sender is led to. All
	// are made once, and nothing may write into them.
	receiptCookie  string
	location, kept []string
	login          *login // nil but in mode sso
}

type paperOption struct {
	option *option
	arg    any
}

func (h *handler) newPaper(p *poll, all []poll, resultsURL string) (*ballotPaper, error) {
	b := &ballotPaper{poll: p, args: &pollArgs{id: int64(p.ID)}, pseudonyms: h.keys.pseudonyms(p.ID), sheets: map[*language]*sheet{},
		receiptCookie: receiptName + strconv.Itoa(int(p.ID)), location: []string{"?poll=" + p.Slug}, kept: []string{"?poll=" + p.Slug + "&kept=1"}}
	for i := range p.Options {
		b.options = append(b.options, paperOption{option: &p.Options[i], arg: int64(p.Options[i].ID)})
	}
	for _, l := range languages {
		if p.Lang != "" && p.Lang != l.code {
			continue
		}
		s, err := newSheet(l, p, all, resultsURL)
		if err != nil {
			return nil, err
		}
		b.sheets[l] = s
	}
	return b, nil
}

func (b *ballotPaper) option(slug string) *paperOption {
	for i := range b.options {
		if b.options[i].option.Slug == slug {
			return &b.options[i]
		}
	}
	return nil
}

func (b *ballotPaper) optionSlugs() string {
	slugs := make([]string, len(b.options))
	for i := range b.options {
		slugs[i] = b.options[i].option.Slug
	}
	return strings.Join(slugs, ", ")
}

// pseudonym is what the stream knows of the voter: base64url of the first 16 bytes of the keyed hash of the identity.
func (b *ballotPaper) pseudonym(identity string) string {
	sum := b.pseudonyms.ofText(identity)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// mark stands in a template for a value that only a request has. It is a character of private use, which no poll file
// may contain.
const mark = "\uE000"

// piece is a part of a page, rendered when the function starts: at a request only its marks are filled in.
type piece [][]byte

// fill appends the piece with its marks replaced by values, which must be HTML already.
func (p piece) fill(out []byte, values ...string) []byte {
	for i, part := range p {
		out = append(out, part...)
		if i < len(values) && i < len(p)-1 {
			out = append(out, values[i]...)
		}
	}
	return out
}

// sheet is a poll's page in one language, in pieces.
type sheet struct {
	language *language
	poll     *poll
	question string // as HTML
	pieces   map[string]piece
	// options are in the poll's order: as they are, and as the voter's choice.
	options, chosen []piece
}

// sheetData is what the templates see.
type sheetData struct {
	*poll
	Lang, Dir                  string
	Style                      template.CSS
	KeepsFirst, Many, Hidden   bool
	Choice, Closes             template.HTML
	Intro, Recorded, Login     string
	ResultsURL, CheckURL, Mark string
	Others                     []*poll
}

func newSheet(l *language, p *poll, all []poll, resultsURL string) (*sheet, error) {
	s := &sheet{language: l, poll: p, question: html.EscapeString(p.Question), pieces: map[string]piece{}}
	closes := template.HTML(`<time datetime="` + p.Closes.UTC().Format(time.RFC3339) + `">` + html.EscapeString(l.moment(p.Closes, p.Zone)) + "</time>")
	data := sheetData{
		poll: p, Lang: l.code, Dir: l.direction, Style: template.CSS(pageStyle), KeepsFirst: p.KeepsFirst(), Many: len(p.Options) > 8,
		Hidden: p.Results == resultsClose, Choice: `<strong dir="auto">` + mark + "</strong>", Closes: closes,
		Intro: p.Texts["intro"], Recorded: p.Texts["recorded"], ResultsURL: resultsURL, Mark: mark,
	}
	if p.SSO != nil {
		data.Login = p.SSO.Login
	}
	if resultsURL != "" {
		data.CheckURL = resultsURL + map[bool]string{false: "?", true: "&"}[strings.Contains(resultsURL, "?")] + "receipt="
	}
	for i := range all {
		if all[i].ID != p.ID {
			data.Others = append(data.Others, &all[i])
		}
	}
	r := renderer{language: l}
	for _, name := range []string{"head", "panel", "stands", "kept", "pending", "question", "link", "login", "form", "rule", "receipt", "tail", "end"} {
		s.pieces[name] = r.piece(name, data)
	}
	for state, t := range map[string]time.Time{"waiting": p.Opens, "closed": p.Closes} {
		text := ""
		if state == "closed" {
			text = p.Texts["closed"]
		}
		s.pieces[state] = r.piece("state", map[string]any{"State": state, "Text": text,
			"Time": template.HTML(`<time datetime="` + t.UTC().Format(time.RFC3339) + `">` + html.EscapeString(l.moment(t, p.Zone)) + "</time>")})
	}
	s.pieces["script"] = r.piece("script", template.JS(pageScript))
	for i := range p.Options {
		s.options = append(s.options, r.piece("option", optionData{&p.Options[i], false}))
		s.chosen = append(s.chosen, r.piece("option", optionData{&p.Options[i], true}))
	}
	return s, r.err
}

type optionData struct {
	*option
	Chosen bool
}

// renderer renders pieces in one language and keeps the first error.
type renderer struct {
	language *language
	err      error
}

func (r *renderer) piece(name string, data any) piece {
	var out bytes.Buffer
	if err := pageTemplates[r.language].ExecuteTemplate(&out, name, data); err != nil && r.err == nil {
		r.err = fmt.Errorf("rendering the page's %s: %w", name, err)
	}
	text := bytes.ReplaceAll(out.Bytes(), []byte("%ee%80%80"), []byte(mark)) // the mark, escaped for an address
	return bytes.Split(text, []byte(mark))
}

// pageTemplates are the page's templates in each language: {{t "key"}} is a message, {{rich "key" html}} one with HTML
// in its place.
var pageTemplates = func() map[*language]*template.Template {
	all := map[*language]*template.Template{}
	for _, l := range languages {
		all[l] = template.Must(template.New("page").Funcs(template.FuncMap{
			"t": l.text,
			"rich": func(key string, inner template.HTML) template.HTML {
				return template.HTML(strings.ReplaceAll(html.EscapeString(l.texts[key]), "{0}", string(inner)))
			},
		}).Parse(pageSource))
	}
	return all
}()

// view is what a page shows of one voter.
type view struct {
	token token // without a voter: a link to the ballot stands in for the form
	nonce string
	code  string // the ballot code that the address brought
	// standing is the voter's vote as far as this browser knows.
	standing standing
	// kept: the voter has pressed again although the first vote counts.
	kept bool
	// signedIn is for mode sso: the request has a valid token of the provider.
	signedIn bool
	problem  string // or why the last press was not recorded
}

// page puts the ballot together; state is the poll's.
func (s *sheet) page(out []byte, v view, state string) []byte {
	voted := v.standing.chosen != nil && !v.standing.pending
	name := ""
	if v.standing.chosen != nil {
		name = html.EscapeString(v.standing.chosen.Name)
	}
	switch {
	case v.problem != "":
		out = s.pieces["head"].fill(out, html.EscapeString(s.language.text("title_not_recorded", s.poll.Question)))
		out = append(out, `<p class="note warn" role="alert">`...)
		out = append(out, html.EscapeString(v.problem)...)
		out = append(out, "</p>\n"...)
	case voted:
		out = s.pieces["head"].fill(out, html.EscapeString(s.language.text("title_recorded", s.poll.Question)))
	default:
		out = s.pieces["head"].fill(out, s.question)
	}
	switch {
	case voted && (v.problem != "" || state != "open"):
		out = s.pieces["stands"].fill(out, name)
	case voted:
		if v.kept {
			out = s.pieces["kept"].fill(out, name)
		}
		out = s.pieces["panel"].fill(out, name, reference(v.standing.receipt))
	case v.standing.pending && v.problem == "":
		out = s.pieces["pending"].fill(out, name)
	}
	out, form := s.ballot(out, v, state, voted)
	if voted {
		out = s.pieces["receipt"].fill(out, v.standing.receipt, v.standing.receipt) // verified, so of our own characters
	}
	out = s.pieces["tail"].fill(out)
	if form {
		out = s.pieces["script"].fill(out)
	}
	return s.pieces["end"].fill(out)
}

// ballot appends the question and, if the voter may press, a form with the options.
func (s *sheet) ballot(out []byte, v view, state string, voted bool) (page []byte, form bool) {
	switch {
	case state != "open":
		out = s.pieces["question"].fill(out)
		if v.problem == "" {
			out = s.pieces[state].fill(out)
		}
		return out, false
	case v.token.voter == "":
		return s.pieces["link"].fill(out), false
	case voted && s.poll.KeepsFirst() && s.poll.Mode != modeOnce: // another code may come from this browser
		return s.pieces["question"].fill(out), false
	case s.poll.Mode == modeSSO && !v.signedIn:
		return s.pieces["login"].fill(out), false
	}
	out = s.pieces["form"].fill(out, strconv.FormatInt(v.token.seq, 10), v.nonce, html.EscapeString(v.code))
	for i := range s.poll.Options {
		switch {
		case v.standing.pending && s.poll.KeepsFirst() && v.standing.chosen != &s.poll.Options[i]:
			// The unconfirmed vote may be stored, and then it counts: nothing else may be promised.
		case voted && v.standing.chosen == &s.poll.Options[i]:
			out = s.chosen[i].fill(out)
		default:
			out = s.options[i].fill(out)
		}
	}
	out = append(out, "</div></fieldset></form>\n"...)
	if !voted {
		out = s.pieces["rule"].fill(out)
	}
	return out, true
}

// barePage is a page without a ballot. root leads to the function's own address.
func barePage(l *language, title, text, root string, polls []poll) []byte {
	var out bytes.Buffer
	data := map[string]any{"Lang": l.code, "Dir": l.direction, "Style": template.CSS(pageStyle), "Title": title, "Text": text, "Root": root, "Polls": polls}
	if err := pageTemplates[l].ExecuteTemplate(&out, "bare", data); err != nil {
		return []byte(html.EscapeString(title))
	}
	return out.Bytes()
}
