package gateway

import (
	"bytes"
	"log/slog"
	"sync/atomic"
	"time"
)

// sampler lets the first few events of each second through and counts the others. It is for concurrent use.
type sampler struct {
	most uint64 // per second; 0: none ever
	// window is the current second in its upper bits and how many it has let through in the lower ones.
	window  atomic.Uint64
	skipped atomic.Uint64
}

const (
	countBits = 24 // more than maxRate
	countMask = 1<<countBits - 1
)

// take reports whether the event at now goes through and, if so, how many did not since the last one that did.
func (s *sampler) take(now time.Time) (ok bool, skipped uint64) {
	second := uint64(now.Unix())
	for {
		old := s.window.Load()
		next := old + 1
		if old>>countBits != second {
			next = second<<countBits | 1
		}
		if next&countMask > s.most {
			s.skipped.Add(1)
			return false, 0
		}
		if s.window.CompareAndSwap(old, next) {
			return true, s.skipped.Swap(0)
		}
	}
}

// maxLoggedPath is enough to recognise a request by.
const maxLoggedPath = 256

// log writes one line about an answered request, unless too many were logged within this second. It has no address,
// query or header: a log is kept longer, and read by more people, than what voters send should be.
func (rq *request) log() {
	log := &rq.g.accessLog
	if log.most == 0 {
		return
	}
	now := time.Now()
	ok, skipped := log.take(now)
	if !ok {
		return
	}
	path, _, _ := bytes.Cut(rq.req.Target, []byte("?"))
	attrs := []any{
		slog.String("method", string(rq.req.Method)), slog.String("path", string(path[:min(len(path), maxLoggedPath)])),
		slog.Int("status", rq.status), slog.Float64("seconds", now.Sub(rq.started).Seconds()),
	}
	if rq.stats != nil {
		attrs = append(attrs, slog.String("function", rq.set.Label), slog.String("call_id", string(rq.id.callID)),
			slog.Int("tries", max(rq.tries, 1)))
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Uint64("skipped", skipped))
	}
	rq.g.cfg.Logger.Info("request", attrs...)
}
