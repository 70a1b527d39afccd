package gateway

import (
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"time"

	"waggle/provider/feed"
	"waggle/provider/gateway/http1"
)

// identity is what mark found in a request's head, and what it made up.
type identity struct {
	callID                        []byte // the client's, or made here
	ownCallID                     bool
	forwardedHost, forwardedProto bool // the client sent one
	forwardedFor                  bool
	made                          [36]byte // backs callID if it was made here
	start                         [20]byte // X-Start-Time in decimal
	startLen                      int
}

// arrived is when the client's request came, for functions that order requests by it. While the gateway is stopped or starved,
// requests lie in the kernel, and their clients may have made others elsewhere since. One that only reads needs no order.
func (rq *request) arrived() time.Time {
	if rq.isGet() {
		return rq.started
	}
	return rq.started.Add(-rq.c.sock.Lain())
}

// mark gives the request its start time and its id, and decides which of its fields go on to the upstream.
func (rq *request) mark() {
	rq.id.startLen = len(strconv.AppendInt(rq.id.start[:0], rq.arrived().UnixNano(), 10))
	rq.markFields()
}

// markFields does all of that but the time. It has to be repeated when the head has another place.
func (rq *request) markFields() {
	id := &rq.id
	id.callID, id.ownCallID = nil, false
	id.forwardedHost, id.forwardedProto, id.forwardedFor = false, false, false
	var chosen *http1.Field // for the call's id
	fields := rq.req.All()
	for i := range fields {
		switch f := &fields[i]; f.Kind {
		case http1.Host:
			f.Drop = true
		case http1.StartTime:
			f.Drop = true
			if value := rq.req.Value(f); rq.c.inner && len(value) <= len(id.start) {
				id.startLen = copy(id.start[:], value) // of a call that was accepted earlier
			}
		case http1.ForwardedFor:
			f.Drop, id.forwardedFor = !rq.c.inner, true
		case http1.ForwardedHost:
			id.forwardedHost = true
		case http1.ForwardedProto:
			id.forwardedProto = true
		case http1.CallID:
			value := rq.req.Value(f)
			switch {
			case len(value) == 0:
				f.Drop = true // none, and in the way of the one that is made
			case chosen == nil:
				chosen = f
			case !feed.ValidCallID(string(rq.req.Value(chosen))) && feed.ValidCallID(string(value)):
				chosen.Drop, chosen = true, f
			default:
				f.Drop = true // of several, the first valid one counts, here as for the function
			}
		}
	}
	if chosen != nil {
		id.callID = rq.req.Value(chosen)
	} else {
		id.callID, id.ownCallID = newCallID(&id.made), true
	}
}

// newCallID makes a random UUID (RFC 9562, version 4). It names a request, it is no secret, so the runtime's fast
// generator will do.
func newCallID(into *[36]byte) []byte {
	var raw [16]byte
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		raw[i], raw[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	return formatCallID(into, raw)
}

func formatCallID(into *[36]byte, raw [16]byte) []byte {
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	hex.Encode(into[0:8], raw[0:4])
	into[8] = '-'
	hex.Encode(into[9:13], raw[4:6])
	into[13] = '-'
	hex.Encode(into[14:18], raw[6:8])
	into[18] = '-'
	hex.Encode(into[19:23], raw[8:10])
	into[23] = '-'
	hex.Encode(into[24:36], raw[10:16])
	return into[:]
}

// requestHead writes the head that the replica gets and returns it. It can be called again for another replica.
func (a *attempt) requestHead(address string) []byte {
	req := &a.req
	// Everything of the old head, and what is added: bounded by the address, the client's address and the ids.
	a.takeOut(a.head - a.r + len(address) + 512)
	b := append(a.out.B[:0], req.Method...)
	b = append(b, ' ')
	if a.slash {
		b = append(b, '/')
	}
	b = append(b, a.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, address...)
	b = append(b, "\r\n"...)
	b = a.appendKept(b)
	b = a.appendOrigin(b)
	if req.WebSocket {
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	}
	if req.Body.Chunked() {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(b, "\r\n"...)
}

// appendOrigin appends the fields that say where the request comes from, which it is and when it came.
func (rq *request) appendOrigin(b []byte) []byte {
	req, id := &rq.req, &rq.id
	if !id.forwardedHost && len(req.Host) > 0 {
		b = append(b, "X-Forwarded-Host: "...)
		b = append(b, req.Host...)
		b = append(b, "\r\n"...)
	}
	if !rq.c.inner {
		b = append(b, "X-Forwarded-For: "...)
		if id.forwardedFor {
			b = rq.appendForwardedFor(b)
		}
		b = append(b, rq.c.ip...)
		b = append(b, "\r\n"...)
	}
	switch {
	case id.forwardedProto:
	case rq.c.tls:
		b = append(b, "X-Forwarded-Proto: https\r\n"...)
	default:
		b = append(b, "X-Forwarded-Proto: http\r\n"...)
	}
	if id.ownCallID {
		b = append(b, "X-Call-Id: "...)
		b = append(b, id.callID...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "X-Start-Time: "...)
	b = append(b, id.start[:id.startLen]...)
	return append(b, "\r\n"...)
}

// appendKept copies the client's fields. Expect goes on only if the body is still to come.
func (rq *request) appendKept(b []byte) []byte {
	if rq.req.Expect && rq.complete {
		fields := rq.req.All()
		for i := range fields {
			if fields[i].Kind == http1.Expect {
				fields[i].Drop = true
			}
		}
	}
	return rq.req.AppendKept(b)
}

// appendForwardedFor appends the addresses of the proxies before us, each followed by a comma.
func (rq *request) appendForwardedFor(b []byte) []byte {
	fields := rq.req.All()
	for i := range fields {
		if f := &fields[i]; f.Kind == http1.ForwardedFor && len(rq.req.Value(f)) > 0 {
			b = append(b, rq.req.Value(f)...)
			b = append(b, ", "...)
		}
	}
	return b
}

// responseHead writes the head that the client gets and returns it. chunked says that the body goes out in chunks.
func (a *attempt) responseHead(keep, chunked bool) []byte {
	resp := &a.resp
	size := len(a.id.callID) + len(a.g.servedBy) + len(resp.Line) + 256
	if f := resp.All(); len(f) > 0 {
		size += resp.Size()
	}
	a.takeOut(size)
	b := append(a.out.B[:0], "HTTP/1.1 "...)
	b = append(b, resp.Line...)
	b = append(b, "\r\n"...)
	if resp.Has[http1.Internal] {
		// The name that a part of the system gives itself is removed. Whoever gets its answer may pass it on with its
		// header. That must not look like a replica's refusal; see turnedAway.
		drop(resp, http1.Internal)
		b = append(b, "X-OpenFaaS-Internal: gateway\r\n"...)
	}
	if a.c.inner {
		drop(resp, http1.Trailer)
	}
	b = resp.AppendKept(b)
	b = a.appendOwn(b, resp)
	if chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = appendPersistence(b, a.req.Minor, keep)
	return append(b, "\r\n"...)
}

// drop keeps fields of one kind back.
func drop(resp *http1.Response, kind http1.Kind) {
	fields := resp.All()
	for i := range fields {
		if fields[i].Kind == kind {
			fields[i].Drop = true
		}
	}
}

// appendOwn appends the fields that tell the client about the call, except those the function has set itself.
func (rq *request) appendOwn(b []byte, resp *http1.Response) []byte {
	var has [http1.ForwardedProto + 1]bool
	if resp != nil {
		has = resp.Has
	}
	if rq.set != nil && !rq.control {
		if rq.set.Function().CORS != nil {
			b = rq.appendCORS(b, resp)
		}
		if !has[http1.CallID] {
			b = append(b, "X-Call-Id: "...)
			b = append(b, rq.id.callID...)
			b = append(b, "\r\n"...)
		}
		if !has[http1.StartTime] {
			b = append(b, "X-Start-Time: "...)
			b = append(b, rq.id.start[:rq.id.startLen]...)
			b = append(b, "\r\n"...)
		}
		if !has[http1.DurationSeconds] {
			b = append(b, "X-Duration-Seconds: "...)
			b = appendSeconds(b, time.Since(rq.started))
			b = append(b, "\r\n"...)
		}
	}
	if !has[http1.ServedBy] {
		b = append(b, "X-Served-By: "...)
		b = append(b, rq.g.servedBy...)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendSeconds writes d in seconds with six digits behind the point.
func appendSeconds(b []byte, d time.Duration) []byte {
	micro := max(d, 0).Microseconds()
	b = strconv.AppendInt(b, micro/1e6, 10)
	b = append(b, '.')
	part := micro % 1e6
	for digit := int64(1e5); digit > 0; digit /= 10 {
		b = append(b, byte('0'+part/digit%10))
	}
	return b
}
