// Package traffic calls a function at a constant rate through several gateways and keeps what failed.
//
// It stands where voters behind a load balancer do. In: gateways, a function that answers POST /slow?for=20ms&n=N with
// "slow N" and names its replica in X-Replica, a rate that may change. Out: how many calls there were, and why those failed that did. It repeats nothing, so that every
// failure of the system is one that a client would have seen.
package traffic

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Traffic is under way from [Start] to Stop. Its methods may be called concurrently.
type Traffic struct {
	gateways []string
	function string
	takes    string
	// perSecond is how many calls begin.
	perSecond atomic.Int64
	client    *http.Client
	well      []atomic.Bool // by gateway

	calls, open atomic.Int64
	running     sync.WaitGroup
	cancel      context.CancelFunc

	mu     sync.Mutex
	failed []Failure // guarded by mu
	// answered is when each replica did so first.
	answered map[string]time.Time // guarded by mu
}

// Failure is a call that was not answered as it should have been.
type Failure struct {
	Gateway      string
	Begun, Ended time.Time
	Why          string
}

const (
	// checkEvery is shorter than the delay for which a stopping gateway goes on serving.
	checkEvery = 200 * time.Millisecond
	// maxOpen calls under way mean that the system has stopped answering.
	maxOpen = 5000
)

// Config says what is called.
type Config struct {
	// Gateways are base URLs. Each call goes to the next one that says it is well.
	Gateways []string
	// Function is the name of the function.
	Function string
	// Takes is how long a call takes it; default 20 ms, so that some are always under way.
	Takes time.Duration
	// PerSecond is the rate, which no slow answer lowers.
	PerSecond int
}

// Start begins to call. It ends with Stop or ctx.
func Start(ctx context.Context, c Config) *Traffic {
	if c.Takes == 0 {
		c.Takes = 20 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(ctx)
	tr := &Traffic{function: c.Function, takes: c.Takes.String(), answered: make(map[string]time.Time), cancel: cancel, gateways: c.Gateways, well: make([]atomic.Bool, len(c.Gateways)),
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 200}}}
	for i := range tr.gateways {
		tr.check(ctx, i)
		tr.running.Go(func() { tr.watch(ctx, i) })
	}
	tr.SetRate(c.PerSecond)
	tr.running.Go(func() { tr.pace(ctx) })
	return tr
}

// SetRate is how many calls begin in a second from now on.
func (tr *Traffic) SetRate(perSecond int) { tr.perSecond.Store(int64(perSecond)) }

func (tr *Traffic) watch(ctx context.Context, gateway int) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			tr.check(ctx, gateway)
		}
	}
}

func (tr *Traffic) check(ctx context.Context, gateway int) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, tr.gateways[gateway]+"/healthz", nil)
	if err != nil {
		return
	}
	response, err := tr.client.Do(request)
	if err == nil {
		response.Body.Close()
	}
	tr.well[gateway].Store(err == nil && response.StatusCode == http.StatusOK)
}

// pace starts the calls. One that falls behind catches up, so that a slow answer does not lower the rate.
func (tr *Traffic) pace(ctx context.Context) {
	last, due := time.Now(), 0.0
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := int64(0); ; {
		now := time.Now()
		due += now.Sub(last).Seconds() * float64(tr.perSecond.Load())
		for last = now; float64(n) < due; n++ {
			if tr.open.Load() >= maxOpen {
				tr.fail(Failure{"", time.Now(), time.Now(), fmt.Sprintf("%d calls are under way", maxOpen)})
				return
			}
			tr.open.Add(1)
			number := n // n goes on while the call is under way
			tr.running.Go(func() {
				defer tr.open.Add(-1)
				tr.call(number)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// call posts, because a client repeats nothing else by itself.
func (tr *Traffic) call(n int64) {
	gateway := tr.pick(n)
	begun := time.Now()
	why := tr.post(fmt.Sprintf("%s/function/%s/slow?for=%s&n=%d", gateway, tr.function, tr.takes, n), fmt.Sprintf("slow %d\n", n))
	tr.calls.Add(1)
	if why != "" {
		tr.fail(Failure{gateway, begun, time.Now(), why})
	}
}

// pick is the next gateway that is well. If none is, that rather says something about the checks, and load balancers go
// on as if all were.
func (tr *Traffic) pick(n int64) string {
	for i := range tr.gateways {
		if at := (int(n) + i) % len(tr.gateways); tr.well[at].Load() {
			return tr.gateways[at]
		}
	}
	return tr.gateways[int(n)%len(tr.gateways)]
}

// post returns why the answer is not what it should be, or "".
func (tr *Traffic) post(url, want string) (why string) {
	response, err := tr.client.Post(url, "text/plain", strings.NewReader("x"))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || string(body) != want {
		return fmt.Sprintf("%s %q from %s (%s), %v", response.Status, body, url, response.Header.Get("X-OpenFaaS-Internal"), err)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if name := response.Header.Get("X-Replica"); tr.answered[name].IsZero() {
		tr.answered[name] = time.Now()
	}
	return ""
}

// Replicas are the times at which the replicas that have answered did so first, in order.
func (tr *Traffic) Replicas() []time.Time {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.SortedFunc(maps.Values(tr.answered), time.Time.Compare)
}

func (tr *Traffic) fail(f Failure) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.failed = append(tr.failed, f)
}

// Failures are those so far.
func (tr *Traffic) Failures() []Failure {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]Failure(nil), tr.failed...)
}

// Excuse forgets the failures that nobody could have prevented, and says how many there were.
func (tr *Traffic) Excuse(unavoidable func(Failure) bool) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	before := len(tr.failed)
	tr.failed = slices.DeleteFunc(tr.failed, unavoidable)
	return before - len(tr.failed)
}

// Stop ends the traffic, waits for the calls under way and says how many there were and which of them failed.
func (tr *Traffic) Stop() (calls int64, failed []Failure) {
	tr.cancel()
	tr.running.Wait()
	tr.client.CloseIdleConnections()
	return tr.calls.Load(), tr.Failures()
}

// Unharmed wants not one call to have failed while do went on.
func (tr *Traffic) Unharmed(t testing.TB, what string, do func()) {
	t.Helper()
	callsBefore, failedBefore := tr.calls.Load(), len(tr.Failures())
	do()
	failed := tr.Failures()[failedBefore:]
	t.Logf("%s: %d calls, %d failed", what, tr.calls.Load()-callsBefore, len(failed))
	for i, f := range failed {
		if i == 5 {
			break
		}
		t.Errorf("%s: a call from %s to %s failed: %s", what, f.Begun.Format("05.000"), f.Ended.Format("05.000"), f.Why)
	}
}
