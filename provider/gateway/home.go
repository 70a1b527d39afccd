package gateway

import (
	"bytes"
	"encoding/json"
	"html/template"
	"time"
)

// homePage is what somebody sees who opens the gateway's address in a browser.
var homePage = template.Must(template.New("home").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>Waggle</title><style>` + pageStyle + `</style></head><body><main>
<h1>Waggle</h1>
<p>This is a gateway to serverless functions on Docker Swarm.</p>
<ul>{{range .Pages}}
<li><a href="{{.}}">{{.}}</a></li>{{end}}
<li>Functions: <code>{{.Function}}<em>name</em></code>, and asynchronously <code>{{.Async}}<em>name</em></code></li>
<li>The API, which is OpenFaaS's: <code>{{.API}}</code>, with user and password; use it with <code>faas-cli</code></li>
<li>Documents: README.md and provider/README.md of Waggle's source, and for the API <a href="https://docs.openfaas.com/">docs.openfaas.com</a></li>
</ul></main></body></html>
`))

// pageFunctions are linked where they are deployed: the ballot and its results.
var pageFunctions = []string{"vote", "results"}

// home says what this is, and where to go.
func (rq *request) home(_ []byte) (keep bool) {
	if !rq.isGet() {
		return rq.refuse(405, "legal methods: GET, HEAD")
	}
	if to := rq.g.cfg.Home; to != "" {
		return rq.respond(302, nil, "Location: "+to+"\r\n")
	}
	var data struct {
		Pages                []string
		Function, Async, API string
	}
	data.Function, data.Async, data.API = functionPath, asyncPath, systemPath
	for _, name := range pageFunctions {
		if rq.g.registry.Lookup([]byte(name)) != nil {
			data.Pages = append(data.Pages, data.Function+name)
		}
	}
	var page bytes.Buffer
	if err := homePage.Execute(&page, data); err != nil {
		return rq.refuse(500, "making the page failed")
	}
	return rq.respond(200, page.Bytes(), pageHeaders+"X-Content-Type-Options: nosniff\r\n")
}

func (rq *request) isGet() bool {
	return string(rq.req.Method) == "GET" || string(rq.req.Method) == "HEAD"
}

// options answers for the server as a whole.
func (rq *request) options(_ []byte) (keep bool) { return rq.respond(204, nil, "") }

// health says how the gateway is. Without its provider it still serves every function it knows, and without a table
// those that DNS knows, so neither is a failure. While it may be too young to know any, balancers should rather ask others.
func (rq *request) health(_ []byte) (keep bool) {
	if !rq.isGet() {
		return rq.refuse(405, "legal methods: GET, HEAD")
	}
	type details struct {
		Status        string     `json:"status"`
		Provider      string     `json:"provider"`
		ProviderGone  *time.Time `json:"provider_gone_since,omitempty"`
		TableEpoch    string     `json:"table_epoch,omitempty"`
		TableRevision uint64     `json:"table_revision"`
		Functions     int        `json:"functions"`
	}
	d := details{Status: "ok", Provider: "connected", Functions: len(rq.g.registry.Sets())}
	if f := rq.g.feed; f != nil {
		table := f.Newest().Table
		d.TableEpoch, d.TableRevision = table.Epoch, table.Revision
		if since, gone := f.GoneSince(); gone {
			d.Status, d.Provider, d.ProviderGone = "degraded", "gone", &since
		} else if rq.g.noTable() {
			d.Status, d.Provider = "degraded", "connected, no table yet"
		}
	}
	status := 200
	switch {
	case rq.g.unready.Load():
		d.Status, status = "stopping", 503
	case rq.g.starting():
		d.Status, status = "starting", 503
	}
	body, err := json.Marshal(d)
	if err != nil {
		return rq.refuse(500, "encoding the health details failed")
	}
	return rq.respond(status, append(body, '\n'), "Content-Type: application/json\r\nCache-Control: no-store\r\n")
}
