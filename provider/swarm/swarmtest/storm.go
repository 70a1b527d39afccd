package swarmtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
)

// StormConfig says how hard [Storm] blows.
type StormConfig struct {
	// Clients work at once, for Duration, on Functions functions.
	Clients, Functions int
	Duration           time.Duration
	// Seed makes the choice of operations repeatable.
	Seed uint64
}

// attempt is one accepted change of a function: what it set, and from when to when it took place.
type attempt struct {
	writer     string // "" for a removal
	begun, end time.Time
}

// Storm lets many clients deploy, update, scale and delete the same functions at once. Every answer must be one
// a client can act on. In the end each function must be what one of the last accepted requests asked for. The
// functions are bound to a node that does not exist: the control plane is tested, not the machine.
func Storm(t *testing.T, target Target, config StormConfig) {
	b := newBench(t, target)
	var mu sync.Mutex
	accepted := make(map[string][]attempt)
	operations := 0

	stop := time.Now().Add(config.Duration)
	var group sync.WaitGroup
	for client := range config.Clients {
		random := rand.New(rand.NewPCG(config.Seed, uint64(client)))
		group.Go(func() {
			for n := 0; time.Now().Before(stop); n++ {
				name := fmt.Sprintf("%sstorm%d", b.prefix, random.IntN(config.Functions))
				writer := fmt.Sprintf("%d-%d", client, n)
				begun := time.Now()
				changed, err := b.anything(t, random.IntN(10), name, writer, uint64(random.IntN(4)))
				mu.Lock()
				operations++
				if err == nil && changed != nil {
					accepted[name] = append(accepted[name], attempt{*changed, begun, time.Now()})
				}
				mu.Unlock()
				if err != nil && !errors.Is(err, swarm.ErrNotFound) && !errors.Is(err, swarm.ErrExists) {
					t.Errorf("a client got: %v", err)
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d operations", operations)
	for name, attempts := range accepted {
		b.checkSurvivor(t, name, attempts)
		b.drop(t, "", name)
	}
}

// anything does one operation of a choice of ten. Changed tells what it set if it is one that replaces or removes.
func (b *bench) anything(t *testing.T, choice int, name, writer string, replicas uint64) (changed *string, err error) {
	d := types.FunctionDeployment{
		Service: name, Image: b.Image, EnvVars: map[string]string{"writer": writer}, Constraints: []string{"node.hostname == nowhere"},
	}
	removed := ""
	switch {
	case choice < 3:
		return &writer, b.Deploy(t.Context(), d)
	case choice < 6:
		return &writer, b.Update(t.Context(), d)
	case choice < 8:
		return nil, b.Scale(t.Context(), "", name, replicas)
	case choice < 9:
		return &removed, b.Delete(t.Context(), "", name)
	}
	_, err = b.Status(t.Context(), "", name, false)
	return nil, err
}

// checkSurvivor wants the state to be that of an accepted change after whose end no other one began.
func (b *bench) checkSurvivor(t *testing.T, name string, attempts []attempt) {
	t.Helper()
	left := ""
	status, err := b.Status(t.Context(), "", name, false)
	switch {
	case err == nil:
		left = status.EnvVars["writer"]
	case !errors.Is(err, swarm.ErrNotFound):
		t.Errorf("Status(%s): %v", name, err)
		return
	}
	for _, candidate := range attempts {
		last := true
		for _, other := range attempts {
			last = last && !other.begun.After(candidate.end)
		}
		if last && candidate.writer == left {
			return
		}
	}
	t.Errorf("%s is as writer %q left it, which is none of the last accepted changes", name, left)
}
