package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"waggle/provider/feed"
	"waggle/provider/gateway/http1"
)

// cancelCall cancels a call of this gateway's queue, or has the other gateways look for it.
func (rq *request) cancelCall(id []byte) (keep bool) {
	call, _, _ := bytes.Cut(id, []byte("?"))
	name := string(call)
	if !feed.ValidCallID(name) {
		return rq.refuse(400, "call id: legal are "+feed.CallIDRule)
	}
	err := rq.withQueue(func(ctx context.Context) error {
		known, err := rq.g.cfg.Queue.Cancel(ctx, name)
		if known || err != nil {
			return err
		}
		return rq.g.cancelElsewhere(ctx, name)
	})
	if err != nil {
		return rq.refuse(statusOf(err), err.Error())
	}
	return rq.respond(202, nil, "")
}

// cancelElsewhere has the other gateways look for a call. Anybody may ask for that, so the rate is bounded.
func (g *Gateway) cancelElsewhere(ctx context.Context, id string) error {
	if g.providerGone() {
		return &http1.Error{Status: 503, Reason: "this gateway has no such call, and the provider, which could ask the others, cannot be reached"}
	}
	if ok, _ := g.asked.take(time.Now()); !ok {
		return &http1.Error{Status: 429, Reason: fmt.Sprintf("too many cancellations of calls that this gateway does not have: legal are %d a second", maxCancels)}
	}
	switch err := g.feed.Cancel(ctx, id); {
	case errors.Is(err, feed.ErrUnknownCall):
		return &http1.Error{Status: 404, Reason: "no gateway has a call of this id: it is over, or there was none"}
	case err != nil:
		g.cfg.Logger.Warn("passing on a cancellation failed", "error", err)
		return &http1.Error{Status: 503, Reason: "this gateway has no such call, and asking the others failed"}
	}
	return nil
}

// cancelled gets cancellations that other gateways' clients requested. It never blocks; what there is no room for is
// lost, as it would be if it came while this gateway is away for long.
func (g *Gateway) cancelled(id string) {
	select {
	case g.cancels <- id:
	default:
		g.cfg.Logger.Warn("a cancellation was dropped: too many are waiting", "waiting", maxCancels)
	}
}

// runCancels cancels what other gateways' clients asked for, and tells them whether this gateway had the call. A queue
// that is away for a moment is asked again.
func (g *Gateway) runCancels(ctx context.Context) error {
	owed := make(chan string, maxCancels)
	var retrying sync.WaitGroup
	defer retrying.Wait()
	retrying.Go(func() { g.retryCancels(ctx, owed) })
	for {
		select {
		case id := <-g.cancels:
			known, err := g.cancelHere(ctx, id)
			if err == nil {
				g.answerCancel(ctx, id, known)
				continue
			}
			select {
			case owed <- id:
			default:
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// answerCancel tells the provider whether this gateway had the call. An answer that is lost makes the other client wait
// for its bound and hear 202.
func (g *Gateway) answerCancel(ctx context.Context, id string, known bool) {
	if g.feed == nil || g.providerGone() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := g.feed.AnswerCancel(ctx, feed.CancelAnswer{Cancel: id, Gateway: g.hostname, Epoch: g.epoch, Known: known}); err != nil && ctx.Err() == nil {
		g.cfg.Logger.Debug("answering for a cancellation failed", "error", err)
	}
}

// retryCancels goes on with what could not be cancelled at once, so that others need not wait for it.
func (g *Gateway) retryCancels(ctx context.Context, owed <-chan string) {
	until := make(map[string]time.Time)
	again := time.NewTicker(cancelAgain)
	defer again.Stop()
	for {
		select {
		case id := <-owed:
			if len(until) < maxCancels {
				until[id] = time.Now().Add(cancelFor)
			}
		case now := <-again.C:
			for id, by := range until {
				known, err := g.cancelHere(ctx, id)
				if err == nil {
					g.answerCancel(ctx, id, known)
				}
				if err == nil || now.After(by) {
					delete(until, id)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

const (
	// cancelAgain is the time between two tries to cancel a call for another gateway's client, cancelFor how long they go on.
	cancelAgain, cancelFor = time.Second, time.Minute
	// cancelWithin bounds one try: an attempt under way may take long to end, and others wait behind it.
	cancelWithin = 3 * time.Second
	// answerWithin bounds the answer to the provider.
	answerWithin = time.Second
)

// cancelHere cancels a call if this gateway has it; with an error it may have it still.
func (g *Gateway) cancelHere(ctx context.Context, id string) (known bool, err error) {
	if g.cfg.Queue == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cancelWithin)
	defer cancel()
	if known, err = g.cfg.Queue.Cancel(ctx, id); err != nil {
		g.cfg.Logger.Warn("cancelling a call for another gateway failed", "call_id", id, "error", err)
	}
	return known, err
}
