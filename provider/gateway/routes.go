package gateway

import (
	"strings"
	"time"

	"waggle/provider/gateway/certs"
)

// route is all that the gateway knows of one path: nothing else in this package names one. To add a page, add a line to
// the table and the function that answers. A page needs no more than path, answer and perhaps credentials.
type route struct {
	// path is a whole path or, if it ends in "/", the beginning of one. answer then gets everything below it, and
	// refuses what does not exist.
	path string
	// answer answers the request; rest is what follows path in its target, query included.
	answer func(rq *request, rest []byte) (keep bool)
	// credentials: those of the API are demanded.
	credentials bool
	// documented, if not empty, are the paths as which calls of the API are counted; any other is the last one. Functions
	// count by their name, and what is left of the gateway's own answers as a refusal, if it is one.
	documented []string
	// plain is what the port without TLS does where it only redirects (tls_redirect).
	plain plain
	// free of charge: no token of rate_limit is taken.
	free bool
}

// plain says what happens to a request on the port without TLS where that only redirects.
type plain uint8

const (
	redirected plain = iota // if that changes nothing and shows no secret; else refused
	refused
	served
)

const (
	functionPath = "/function/"
	asyncPath    = "/async-function/"
	systemPath   = "/system/"
	healthPath   = "/healthz"
	// metricsPath is served on metrics_port alone.
	metricsPath = "/metrics"
)

// routes are looked through in order: the first that fits answers. It is made by init, since what answers leads back here.
var routes []route

func init() {
	routes = []route{
		{path: functionPath, answer: (*request).function},
		{path: asyncPath, answer: (*request).async, documented: []string{asyncPath}},
		{path: "/system/queue", answer: func(rq *request, rest []byte) bool { return rq.inspectQueue(string(rest)) },
			credentials: true, documented: []string{"/system/queue"}, plain: refused},
		{path: "/system/queue/", answer: func(rq *request, rest []byte) bool { return rq.inspectQueue("/" + string(rest)) },
			credentials: true, documented: []string{"/system/queue/dead", "/system/queue/dead/", "/system/other"}, plain: refused},
		{path: systemPath, answer: (*request).api, credentials: true, documented: []string{"/system/functions", "/system/function/",
			"/system/scale-function/", "/system/secrets", "/system/logs", "/system/info", "/system/namespaces", "/system/namespace/",
			"/system/alert", "/system/telemetry", "/system/other"}, plain: refused},
		{path: healthPath, answer: (*request).health, plain: served, free: true},
		{path: certs.ChallengePath, answer: (*request).challenge, plain: served},
		{path: "/", answer: (*request).home},
		{path: "*", answer: (*request).options},
	}
}

// nowhere is the route of what is in no table.
var nowhere = route{answer: func(rq *request, _ []byte) bool { return rq.refuse(404, "404 page not found") }}

// routeOf finds the route of a target, and what follows its path there.
func routeOf(target []byte) (r *route, rest []byte) {
	for i := range routes {
		r := &routes[i]
		n := len(r.path)
		if len(target) < n || string(target[:n]) != r.path {
			continue
		}
		// A lone "/" is the root, and not the beginning of everything.
		if whole := r.path[n-1] != '/' || n == 1; !whole || len(target) == n || target[n] == '?' {
			return r, target[n:]
		}
	}
	return &nowhere, target
}

// fold is the documented path of a target, so that a stranger cannot make series; "" if calls are not counted as the API's.
func (r *route) fold(target []byte) string {
	if len(r.documented) == 0 {
		return ""
	}
	path := string(target)
	path, _, _ = strings.Cut(path, "?")
	for _, known := range r.documented {
		if path == known || known[len(known)-1] == '/' && strings.HasPrefix(path, known) {
			return known
		}
	}
	return r.documented[len(r.documented)-1]
}

// serve answers one request and reports whether the connection can take another.
func (rq *request) serve() (keep bool) {
	rq.started = time.Now()
	rq.body = rq.head
	r, rest := routeOf(rq.req.Target)
	if !r.free && !rq.withinRate() {
		return rq.refuse(429, rq.g.cfg.tooManyRequests())
	}
	if rq.g.cfg.TLSRedirect && !rq.c.tls && !rq.c.inner && r.plain != served {
		return rq.toTLS(r.plain == redirected)
	}
	if string(rq.req.Method) == "CONNECT" {
		return rq.refuse(405, "CONNECT is not supported")
	}
	if r.credentials && !rq.authorised() {
		return rq.refuse(401, "invalid credentials")
	}
	folded := r.fold(rq.req.Target)
	keep = r.answer(rq, rest)
	if folded != "" && !rq.counted {
		rq.g.metrics.api(rq.req.Method, folded, rq.status, time.Since(rq.started))
	}
	return keep && !rq.c.left.Load()
}
