package results

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"strconv"
	"time"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"written": func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") },
	"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05") },
	"total":   func(p pollReport) int64 { return *p.Total },
	"share":   func(o optionReport, p pollReport) string { return strconv.FormatFloat(o.share(*p.Total), 'f', 1, 64) },
}).Parse(pageSource))

// policy permits the page's own style, by its hash, and nothing else.
var policy = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; img-src data:; " +
		"form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
}()

// answer is one count in every form it is asked for, rendered once.
type answer struct {
	stale               bool
	json, still, moving []byte // moving is the page that renews itself
}

func renderAnswer(r report, voteURL string) (*answer, error) {
	a := &answer{stale: r.Stale}
	var err error
	if a.json, err = json.Marshal(r); err != nil {
		return nil, fmt.Errorf("encoding the results: %w", err)
	}
	a.json = append(a.json, '\n')
	if a.still, err = renderPage(r, voteURL, false); err != nil {
		return nil, err
	}
	a.moving, err = renderPage(r, voteURL, true)
	return a, err
}

func renderPage(r report, voteURL string, live bool) ([]byte, error) {
	var out bytes.Buffer
	data := struct {
		report
		Live    bool
		Style   template.CSS
		VoteURL string
	}{r, live, template.CSS(pageStyle), voteURL}
	if err := pageTemplate.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("rendering the page: %w", err)
	}
	return out.Bytes(), nil
}
