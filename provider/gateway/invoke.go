package gateway

import "time"

// function answers a call of a function.
func (rq *request) function(address []byte) (keep bool) {
	if status, reason := rq.find(address); status != 0 {
		return rq.refuse(status, reason)
	}
	if rq.preflight() {
		return rq.answerPreflight()
	}
	return rq.invoke()
}

// api passes a call of the API on to the provider.
func (rq *request) api(_ []byte) (keep bool) {
	if rq.g.provider == nil {
		return rq.refuse(503, "there is no provider")
	}
	rq.set, rq.path, rq.control = rq.g.provider, rq.req.Target, true
	return rq.invoke()
}

// find finds the function that address names. A status other than 0 says why there is none.
func (rq *request) find(address []byte) (status int, reason string) {
	name, path := splitAddress(address)
	rq.path = path
	rq.slash = len(path) == 0 || path[0] == '?'
	rq.set = rq.g.registry.Lookup(name)
	var err error
	if rq.set == nil {
		rq.set, err = rq.search(name)
	}
	switch {
	case err != nil:
		return statusOf(err), rq.g.cfg.unserved(err)
	case rq.set != nil:
		rq.stats = rq.set.Stats.(*functionStats)
		return 0, ""
	}
	return 404, "no such function"
}

// splitAddress splits "name[.namespace][/path][?query]" behind the name. The rest reaches the function untouched: it is
// neither decoded nor cleaned.
func splitAddress(address []byte) (name, rest []byte) {
	end := 0
	for end < len(address) && address[end] != '/' && address[end] != '?' {
		end++
	}
	return address[:end], address[end:]
}

// invoke brings the body in as far as it should be, forwards, and counts.
func (rq *request) invoke() (keep bool) {
	rq.mark()
	if rq.stats != nil {
		rq.begun = true
		rq.set.Started.Add(1)
		rq.stats.started.Inc()
	}
	var status int
	if status, keep = rq.bufferBody(); status == 0 {
		if rq.stale() {
			status, keep = 499, false
		} else {
			status, keep = rq.forward()
		}
	}
	rq.count(status)
	return keep && !rq.c.left.Load()
}

func (rq *request) count(status int) {
	rq.status = status
	if rq.stats != nil {
		rq.begun, rq.counted = false, true
		rq.set.Completed.Add(1)
		rq.stats.completed(status, time.Since(rq.started))
	}
}
