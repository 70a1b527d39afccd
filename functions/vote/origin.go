package vote

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// origins decides whether a ballot was sent by a page of ours. It uses http.CrossOriginProtection with every name
// that we may have. A proxy in front may pass the Host on, or name it in X-Forwarded-Host, or do neither.
type origins struct {
	public []string // of the setting public_origins
	check  *http.CrossOriginProtection
	// lastLog is when a refusal was logged last, in Unix nanoseconds.
	lastLog atomic.Int64
}

// logEvery bounds what refusals write to the log.
const logEvery = time.Second

// parseOrigins reads public_origins: origins such as https://vote.example, separated by commas or spaces.
func parseOrigins(setting string) (*origins, error) {
	o := &origins{check: http.NewCrossOriginProtection()}
	var errs []error
	for _, origin := range strings.FieldsFunc(setting, func(r rune) bool { return r == ',' || r == ' ' }) {
		u, err := url.Parse(origin)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || origin != u.Scheme+"://"+u.Host {
			errs = append(errs, fmt.Errorf("public_origins: %q: must be http or https, ://, a host, and a port if it is not the usual one", origin))
			continue
		}
		origin = strings.ToLower(origin)
		errs = append(errs, o.check.AddTrustedOrigin(origin))
		o.public = append(o.public, origin)
	}
	return o, errors.Join(errs...)
}

// secure reports whether all of our pages are https.
func (o *origins) secure() bool {
	for _, origin := range o.public {
		if !strings.HasPrefix(origin, "https:") {
			return false
		}
	}
	return len(o.public) > 0
}

// allows reports whether the request is from a page of ours, or from no page at all.
func (o *origins) allows(r *http.Request) bool {
	if o.check.Check(r) == nil {
		return true
	}
	for _, host := range hosts(r) {
		if o.check.Check(&http.Request{Method: r.Method, Host: host, Header: r.Header, URL: r.URL}) == nil {
			return true
		}
	}
	return false
}

// hosts are the names under which the client may know this function. No page can make a browser send another one.
func hosts(r *http.Request) []string {
	return append(headerElements(r, "X-Forwarded-Host"), r.Host)
}

// headerElements are the comma-separated elements of a header, from all its lines.
func headerElements(r *http.Request, name string) []string {
	var all []string
	for _, line := range r.Header[name] {
		for element := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(element))
		}
	}
	return all
}

// isHTTPS reports whether the client speaks TLS with whatever is in front of us: the first X-Forwarded-Proto that is
// a scheme says so.
func isHTTPS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	for _, line := range r.Header["X-Forwarded-Proto"] {
		for scheme := range strings.SplitSeq(line, ",") {
			scheme = strings.TrimSpace(scheme)
			if strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http") {
				return len(scheme) == len("https")
			}
		}
	}
	return false
}

// refuseForeign is the answer to a ballot from another site; it says what was compared. To the operator, so does the log.
func (h *handler) refuseForeign(v *visit) *problem {
	origin, site := v.r.Header.Get("Origin"), v.r.Header.Get("Sec-Fetch-Site")
	last := h.origins.lastLog.Load()
	if v.now.UnixNano()-last >= int64(logEvery) && h.origins.lastLog.CompareAndSwap(last, v.now.UnixNano()) {
		h.logger.Info("ballot from another site refused", "origin", origin, "sec_fetch_site", site, "hosts", hosts(v.r),
			"public_origins", h.origins.public, "advice", "if the origin is this site, let the proxy in front pass Host on, or set public_origins")
	}
	from := origin
	if from == "" {
		from = "a page that the browser calls " + site
	}
	here := strings.Join(append(hosts(v.r), h.origins.public...), ", ")
	return newProblem(http.StatusForbidden, "cross_origin", quoted(from), quoted(here))
}
