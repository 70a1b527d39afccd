package api

import (
	"cmp"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"waggle/provider/feed"
)

// functionProxy forwards calls to functions plainly and slowly, for those who put OpenFaaS' own gateway in front of the
// provider. A call goes to the gateway, which knows and wakes functions, or without one to a random ready replica. For that
// the provider must be on the functions' network, and it wakes nothing: OpenFaaS' gateway does that itself.
func functionProxy(newest func() feed.Table, gateway string) http.Handler {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Second,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked, path, who := gateway, r.URL.EscapedPath(), "the gateway at "+gateway+" did not answer"
		if gateway == "" {
			address, rest, _ := strings.Cut(strings.TrimPrefix(path, "/function/"), "/")
			replica, status, reason := pick(newest(), address)
			if reason != "" {
				w.Header().Set("X-OpenFaaS-Internal", "proxy")
				http.Error(w, reason, status)
				return
			}
			// The function sees the path behind its name as it was sent.
			asked, path, who = replica, "/"+rest, "a replica of "+address+" did not answer the provider, which must be on the functions' network"
		}
		proxy := &httputil.ReverseProxy{
			Transport: transport, FlushInterval: -1,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL.Scheme, p.Out.URL.Host = "http", asked
				p.Out.URL.RawPath = path
				p.Out.URL.Path, _ = url.PathUnescape(path) // it has been parsed once
				p.Out.Header["X-Forwarded-For"] = p.In.Header["X-Forwarded-For"]
				p.Out.Header.Set("X-Forwarded-Host", cmp.Or(p.In.Header.Get("X-Forwarded-Host"), p.In.Host))
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				w.Header().Set("X-OpenFaaS-Internal", "proxy")
				http.Error(w, who+": "+err.Error(), http.StatusBadGateway)
			},
		}
		proxy.ServeHTTP(w, r)
	})
}

// pick takes a ready replica of name[.namespace], or says why there is none.
func pick(table feed.Table, address string) (replica string, status int, reason string) {
	name, namespace := address, ""
	if dot := strings.LastIndexByte(address, '.'); dot >= 0 {
		name, namespace = address[:dot], address[dot+1:]
	}
	at := slices.IndexFunc(table.Functions, func(f feed.Function) bool {
		return f.Name == name && (f.Namespace == namespace || namespace == "" && f.Service == f.Name)
	})
	if at < 0 {
		return "", http.StatusNotFound, "function " + address + " does not exist"
	}
	ready := slices.DeleteFunc(slices.Clone(table.Functions[at].Replicas), func(r feed.Replica) bool { return r.State != feed.Ready })
	if len(ready) == 0 {
		return "", http.StatusServiceUnavailable, "function " + address + " has no replica that is ready"
	}
	return ready[rand.N(len(ready))].Address, 0, ""
}
