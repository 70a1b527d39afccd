package async

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"time"

	"waggle/provider/queued"
)

// innerTransport makes requests to the gateway in its own process, on which all that a gateway does for a request is done.
func (q *Queue) innerTransport() *http.Transport {
	return &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return q.gateway.Dial(ctx) },
		MaxIdleConnsPerHost: q.cfg.MaxInflight + q.cfg.MaxCallbacks, IdleConnTimeout: 30 * time.Second,
		MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
	}
}

// maxHeader bounds the header of an answer.
const maxHeader = 128 << 10

// userAgent is the one of calls and callbacks that bring none.
const userAgent = "waggle"

// invoke calls the function once.
func (q *Queue) invoke(ctx context.Context, c *queued.Call) *answer {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.RunTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway", bytes.NewReader(c.Body))
	if err != nil {
		return &answer{err: err}
	}
	request.URL.Opaque = "/function/" + c.Address + c.Target // opaque, it reaches the function byte for byte
	request.Header = parseHeader(c.Header)
	begun := time.Now()
	noAnswer := func(err error) *answer {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("the attempt took longer than async_run_timeout, %s", q.cfg.RunTimeout)
		}
		return &answer{err: fmt.Errorf("no answer: %w", err), took: time.Since(begun)}
	}
	response, err := q.inner.RoundTrip(request)
	if err != nil {
		return noAnswer(err)
	}
	defer response.Body.Close()
	a := &answer{status: response.StatusCode, header: response.Header}
	if c.Callback != "" {
		a.body, err = io.ReadAll(io.LimitReader(response.Body, int64(q.cfg.MaxResult)+1))
		if a.omitted = len(a.body) > q.cfg.MaxResult; a.omitted {
			a.body = nil
		}
	}
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body) // an answer that breaks off is none
	}
	if err != nil {
		return noAnswer(err)
	}
	a.took = time.Since(begun)
	return a
}

// parseHeader reads header lines. Those that were stored are well-formed; of others it takes what it can.
func parseHeader(lines []byte) http.Header {
	h := make(http.Header)
	for line := range bytes.SplitSeq(lines, []byte("\r\n")) {
		name, value, found := bytes.Cut(line, []byte(":"))
		if found {
			key := textproto.CanonicalMIMEHeaderKey(string(name))
			h[key] = append(h[key], string(bytes.Trim(value, " \t")))
		}
	}
	if h["User-Agent"] == nil {
		h["User-Agent"] = []string{userAgent}
	}
	return h
}

// connectionFields concern one connection or the length of one body.
var connectionFields = map[string]bool{"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true,
	"Proxy-Authorization": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Content-Length": true, "Host": true}

// resultOf is what is kept of an answer for the callback. Where there was no answer, that is status 503 without a body.
func resultOf(c *queued.Call, a *answer, retries, most int) *result {
	r := &result{resultHead: resultHead{Address: c.Address, Callback: c.Callback, Status: a.status, Retries: retries, Most: most, Omitted: a.omitted}, body: a.body}
	if a.err != nil {
		r.Status = http.StatusServiceUnavailable
	}
	r.Seconds = a.header.Get("X-Duration-Seconds")
	if r.Seconds == "" {
		r.Seconds = strconv.FormatFloat(a.took.Seconds(), 'f', 6, 64)
	}
	for name, values := range a.header {
		if connectionFields[name] {
			continue
		}
		for _, value := range values {
			r.header = append(r.header, name+": "+value+"\r\n"...)
		}
	}
	return r
}
