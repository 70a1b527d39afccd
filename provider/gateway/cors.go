package gateway

import (
	"slices"

	"waggle/provider/gateway/http1"
)

// Web pages of other origins may call a function if its annotations say so (see feed.CORS). Then this file answers their
// preflights and marks the responses; without annotations both are the function's business.

// preflightAge is how long a browser may keep the answer to a preflight.
const preflightAge = "600"

// field is the value of the first field of a name, given in lower case, that no Kind stands for.
func field(f *http1.Fields, name string) (value []byte, found bool) {
	fields := f.All()
	for i := range fields {
		if h := &fields[i]; h.Kind == http1.Other && http1.EqualFold(f.Name(h), name) {
			return f.Value(h), true
		}
	}
	return nil, false
}

// preflight reports whether the request asks on behalf of a page whether it may call a function with annotations.
func (rq *request) preflight() bool {
	if string(rq.req.Method) != "OPTIONS" || rq.set == nil || rq.set.Function().CORS == nil {
		return false
	}
	_, asks := field(&rq.req.Fields, "access-control-request-method")
	return asks
}

// answerPreflight allows whatever the page asks for, if its origin is allowed: which methods and fields a function takes is
// known to the function alone.
func (rq *request) answerPreflight() (keep bool) {
	var b []byte
	if rq.allowedOrigin() != nil {
		method, _ := field(&rq.req.Fields, "access-control-request-method")
		b = append(append(append(b, "Access-Control-Allow-Methods: "...), method...), "\r\n"...)
		if names, asks := field(&rq.req.Fields, "access-control-request-headers"); asks {
			b = append(append(append(b, "Access-Control-Allow-Headers: "...), names...), "\r\n"...)
		}
		b = append(b, "Access-Control-Max-Age: "+preflightAge+"\r\n"...)
	}
	return rq.respond(204, nil, string(b))
}

// allowedOrigin is what Access-Control-Allow-Origin says; nil if the page may not read the response.
func (rq *request) allowedOrigin() []byte {
	origin, _ := field(&rq.req.Fields, "origin")
	origins := rq.set.Function().CORS.Origins
	switch {
	case len(origin) == 0:
		return nil
	case origins[0] == "*":
		return []byte("*")
	case slices.Contains(origins, string(origin)):
		return origin
	}
	return nil
}

// appendCORS marks a response for pages of other origins, unless the function does so itself.
func (rq *request) appendCORS(b []byte, resp *http1.Response) []byte {
	cors := rq.set.Function().CORS
	if resp != nil {
		if _, own := field(&resp.Fields, "access-control-allow-origin"); own {
			return b
		}
	}
	if cors.Origins[0] != "*" {
		b = append(b, "Vary: Origin\r\n"...)
	}
	allowed := rq.allowedOrigin()
	if allowed == nil {
		return b
	}
	b = append(append(append(b, "Access-Control-Allow-Origin: "...), allowed...), "\r\n"...)
	b = append(b, "Access-Control-Expose-Headers: X-Call-Id\r\n"...)
	if cors.Credentials {
		b = append(b, "Access-Control-Allow-Credentials: true\r\n"...)
	}
	return b
}
