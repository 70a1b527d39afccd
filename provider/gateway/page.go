package gateway

import (
	"bytes"
	"html/template"
	"net/http"

	"waggle/provider/gateway/http1"
)

// A person in a browser gets the gateway's own refusals as a page; programs get a line of text. The page renews itself
// where waiting helps.

var refusalPage = template.Must(template.New("refusal").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">{{if .Again}}<meta http-equiv="refresh" content="{{.Again}}">{{end}}
<title>{{.Title}}</title></head><body><h1>{{.Title}}</h1><p>{{.Sentence}}</p><p><small>{{.Status}}: {{.Reason}}</small></p></body></html>
`))

// sentences are what people are told; of other statuses, their name.
var sentences = map[int]struct{ title, sentence string }{
	404: {"There is nothing here", "There is no page and no function at this address."},
	429: {"One moment, please", "Too many requests come at once. This page tries again by itself."},
	502: {"That went wrong", "The function did not give a proper answer. Please try again in a moment."},
	503: {"One moment, please", "What you asked for is not ready. This page tries again by itself."},
	504: {"That took too long", "The function did not answer in time. Please try again in a moment."},
}

// isBrowser reports whether a person waits for a page: the request is a GET that accepts HTML.
func (rq *request) isBrowser() bool {
	if string(rq.req.Method) != "GET" || rq.c.inner {
		return false
	}
	fields := rq.req.All()
	for i := range fields {
		f := &fields[i]
		if f.Kind == http1.Other && http1.EqualFold(rq.req.Name(f), "accept") && bytes.Contains(rq.req.Value(f), []byte("text/html")) {
			return true
		}
	}
	return false
}

// refusalAsPage is the page for a refusal, which tries again after so many seconds; "" is never.
func refusalAsPage(status int, reason, again string) []byte {
	said, known := sentences[status]
	if !known {
		said.title = http.StatusText(status)
	}
	var page bytes.Buffer
	_ = refusalPage.Execute(&page, struct { // writing to memory cannot fail
		Status                         int
		Title, Sentence, Reason, Again string
	}{status, said.title, said.sentence, reason, again})
	return page.Bytes()
}
