package vote

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"html/template"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// policy permits the page's own style, by its hash, and its own form; nothing else, and no frame around it.
var policy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src data:; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}()

// ballotPaper is a poll with its page, rendered when the function starts: at a request only the voter's own parts
// are put in between.
type ballotPaper struct {
	poll       *poll
	args       *pollArgs
	pseudonyms *mac
	head, tail []byte
	options    []paperOption
}

type paperOption struct {
	option        *option
	arg           any
	plain, chosen []byte
}

func newPaper(p *poll, all []poll, k *keys, resultsURL string) (*ballotPaper, error) {
	paper := &ballotPaper{poll: p, args: &pollArgs{id: int64(p.ID)}, pseudonyms: k.pseudonyms(p.ID)}
	var others []*poll
	for i := range all {
		if all[i].ID != p.ID {
			others = append(others, &all[i])
		}
	}
	var err error
	if paper.head, err = render("head", map[string]any{"Question": p.Question, "Style": template.CSS(pageStyle)}); err != nil {
		return nil, err
	}
	if paper.tail, err = render("tail", map[string]any{
		"Mode": p.Mode, "Closes": written(p.Closes), "ClosesISO": p.Closes.UTC().Format(time.RFC3339),
		"ResultsURL": resultsURL, "Others": others,
	}); err != nil {
		return nil, err
	}
	for i := range p.Options {
		o := &p.Options[i]
		done := paperOption{option: o, arg: int64(o.ID)}
		if done.plain, err = render("option", map[string]any{"Slug": o.Slug, "Name": o.Name, "Chosen": false}); err != nil {
			return nil, err
		}
		if done.chosen, err = render("option", map[string]any{"Slug": o.Slug, "Name": o.Name, "Chosen": true}); err != nil {
			return nil, err
		}
		paper.options = append(paper.options, done)
	}
	return paper, nil
}

func render(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := pageTemplate.ExecuteTemplate(&out, name, data); err != nil {
		return nil, fmt.Errorf("rendering the page's %s: %w", name, err)
	}
	return out.Bytes(), nil
}

func (b *ballotPaper) option(slug string) *paperOption {
	for i := range b.options {
		if b.options[i].option.Slug == slug {
			return &b.options[i]
		}
	}
	return nil
}

func (b *ballotPaper) optionSlugs() []string {
	slugs := make([]string, len(b.options))
	for i := range b.options {
		slugs[i] = b.options[i].option.Slug
	}
	return slugs
}

// pseudonym is what the stream knows of the voter: base64url of the first 16 bytes of the keyed hash of the id.
func (b *ballotPaper) pseudonym(voter string) string {
	sum := b.pseudonyms.of([]byte(voter))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// view is what a page shows of one voter.
type view struct {
	token   token // without a voter: a link to the ballot stands in for the form
	nonce   string
	chosen  *option // the acknowledged choice, if the browser still has its receipt
	receipt string
	problem *problem // nil, or why the last press was not recorded
}

// page puts the ballot together; now decides whether there is a form.
func (b *ballotPaper) page(out []byte, v view, now time.Time) []byte {
	out = append(out, b.head...)
	switch {
	case v.problem != nil:
		out = append(out, `<p class="note warn" role="alert">`...)
		out = append(out, html.EscapeString(v.problem.text)...)
		out = append(out, "</p>\n"...)
	case v.chosen != nil:
		out = append(out, `<p class="note" role="status">Your vote for <strong>`...)
		out = append(out, html.EscapeString(v.chosen.Name)...)
		out = append(out, "</strong> is recorded.</p>\n"...)
	}
	state := b.poll.state(now)
	if state == "open" && v.token.voter == "" {
		out = append(out, `<p><a href="?poll=`...)
		out = append(out, b.poll.Slug...)
		out = append(out, "\">Open the ballot</a></p>\n"...)
	} else if state == "open" {
		out = b.form(out, v)
	} else if v.problem == nil {
		out = append(out, `<p class="note warn">`...)
		out = append(out, closedText(b.poll, state)...)
		out = append(out, "</p>\n"...)
	}
	if v.chosen != nil {
		out = append(out, `<details><summary>Receipt</summary><code>`...)
		out = append(out, v.receipt...) // verified, so of our own characters
		out = append(out, "</code></details>\n"...)
	}
	return append(out, b.tail...)
}

func (b *ballotPaper) form(out []byte, v view) []byte {
	// The links of the page are queries alone: they stay right wherever a gateway mounts the function.
	out = append(out, `<form method="post" action="?poll=`...)
	out = append(out, b.poll.Slug...)
	out = append(out, `"><input type="hidden" name="poll" value="`...)
	out = append(out, b.poll.Slug...)
	out = append(out, `"><input type="hidden" name="seq" value="`...)
	out = strconv.AppendInt(out, v.token.seq, 10)
	out = append(out, `"><input type="hidden" name="nonce" value="`...)
	out = append(out, v.nonce...)
	out = append(out, "\">\n"...)
	for i := range b.options {
		if b.options[i].option == v.chosen {
			out = append(out, b.options[i].chosen...)
		} else {
			out = append(out, b.options[i].plain...)
		}
	}
	return append(out, "</form>\n"...)
}

func closedText(p *poll, state string) string {
	if state == "waiting" {
		return "This poll opens on " + written(p.Opens) + "."
	}
	return "This poll closed on " + written(p.Closes) + "."
}

// written is a time for people, in the one zone that is right everywhere.
func written(t time.Time) string {
	return strings.TrimSpace(t.UTC().Format("2 January 2006, 15:04 UTC"))
}
