package gateway

import (
	"errors"
	"time"

	"waggle/provider/gateway/upstream"
)

// lookAgain is the time between two look-ups by DNS for a request that is held meanwhile.
const lookAgain = time.Second

var errNoTable = errors.New("no replica table has come from the provider yet, so it is not known which functions there are")

// blind reports whether no replica table has come yet. A provider that has just started can be heard before it can list
// what Swarm runs; until then it is of no more use to requests than one that is gone.
func (g *Gateway) blind() bool {
	select {
	case <-g.sighted:
		return false
	default:
		return true
	}
}

// starting reports whether the gateway may only be too young to know any function.
func (g *Gateway) starting() bool {
	return g.blind() && time.Since(g.born) < time.Duration(g.cfg.StartupTimeout) && g.registry.Guessed() == 0
}

// find looks for a function that no table has named; nil means that there is none, [errNoTable] that nobody can say. While
// the gateway may be too young to know it, the request is held: it knows soon, and the client cannot do better than wait.
func (ex *exchange) find(name []byte) (*upstream.Set, error) {
	g := ex.g
	blind := g.blind()
	set, err := g.registry.Guess(name)
	if set != nil || err != nil || !blind {
		return set, err
	}
	wait := min(time.Duration(g.cfg.HoldTimeout), time.Duration(g.cfg.StartupTimeout)-time.Since(g.born))
	if g.heldBlind.Add(1) > int64(g.cfg.MaxHeld) {
		wait = 0
	}
	defer g.heldBlind.Add(-1)
	ex.c.limit(0) // the wait has its own deadline
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case <-g.sighted:
			return g.registry.Lookup(name), nil
		default:
		}
		select {
		case <-g.sighted:
		case <-again.C:
			if set, err = g.registry.Guess(name); set != nil || err != nil {
				return set, err
			}
		case <-ex.c.leaving():
			return nil, upstream.ErrLeft
		case <-timeout.C:
			return nil, errNoTable
		}
	}
}
