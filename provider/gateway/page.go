package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/upstream"
)

// A person in a browser gets the gateway's own refusals as a page; programs get a line of text. The page renews itself
// where waiting helps. So a function that starts has a waiting page: it comes after a moment, and each renewal waits at the
// gateway for that moment again.

// pageStyle is in every page, and permitted by its hash alone.
const pageStyle = `:root{color-scheme:light dark}body{font:1.125rem/1.5 system-ui,sans-serif;max-width:36rem;margin:0 auto;padding:2rem 1.25rem;overflow-wrap:anywhere}h1{font-size:1.6rem;line-height:1.25}small{opacity:.8}`

// pageHeaders go with every page.
var pageHeaders = func() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nContent-Security-Policy: default-src 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'\r\n"
}()

var refusalPage = template.Must(template.New("refusal").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">{{if .Again}}<meta http-equiv="refresh" content="{{.Again}}">{{end}}
<title>{{.Title}}</title><style>` + pageStyle + `</style></head><body><main><h1>{{.Title}}</h1><p dir="auto">{{.Sentence}}</p><p><small>{{.Status}}: {{.Reason}}</small></p></main></body></html>
`))

// sentences are what people are told; of other statuses, their name.
var sentences = map[int]struct{ title, sentence string }{
	401: {"User and password, please", "This page is for whoever has the credentials of the API."},
	404: {"There is nothing here", "There is no page and no function at this address."},
	429: {"One moment, please", "Too many requests come at once. This page tries again by itself."},
	502: {"That went wrong", "The function did not give a proper answer. Please try again in a moment."},
	503: {"One moment, please", "What you asked for is not ready. This page tries again by itself."},
	504: {"That took too long", "The function did not answer in time. Please try again in a moment."},
}

// isBrowser reports whether a person waits for a page: the request is a GET that accepts HTML. A script's request for a part
// of a page is none; browsers mark it (Fetch Metadata).
func (rq *request) isBrowser() bool {
	if string(rq.req.Method) != "GET" || rq.c.inner {
		return false
	}
	html := false
	fields := rq.req.All()
	for i := range fields {
		f := &fields[i]
		if f.Kind != http1.Other {
			continue
		}
		switch name := rq.req.Name(f); {
		case http1.EqualFold(name, "accept"):
			html = html || bytes.Contains(rq.req.Value(f), []byte("text/html"))
		case http1.EqualFold(name, "sec-fetch-mode") && string(rq.req.Value(f)) != "navigate":
			return false
		}
	}
	return html
}

// waitingText is the function's own sentence for people who wait for it to start; "" if it has none, or err is not that.
func (rq *request) waitingText(err error) string {
	if rq.set == nil || !errors.Is(err, upstream.ErrNotReady) {
		return ""
	}
	return rq.set.Function().WaitingText
}

// refusalAsPage is the page for a refusal, which tries again after so many seconds; "" is never. It says the sentence, or
// that of the status if there is none.
func refusalAsPage(status int, reason, sentence, again string) []byte {
	said, known := sentences[status]
	if !known {
		said.title, said.sentence = http.StatusText(status), "The request was refused."
	}
	if sentence != "" {
		said.sentence = sentence
	}
	var page bytes.Buffer
	_ = refusalPage.Execute(&page, struct { // writing to memory cannot fail
		Status                         int
		Title, Sentence, Reason, Again string
	}{status, said.title, said.sentence, reason, again})
	return page.Bytes()
}
