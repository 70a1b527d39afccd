//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// traffic sends calls at a constant rate, whatever becomes of them, through each gateway in turn that says it is well:
// as voters behind a load balancer do. Each call takes the function 20 ms, so that some are always under way.
type traffic struct {
	gateways []string
	function string
	client   *http.Client
	well     []atomic.Bool // by gateway

	calls, open atomic.Int64
	running     sync.WaitGroup
	cancel      context.CancelFunc

	mu     sync.Mutex
	failed []failedCall // guarded by mu
}

// failedCall is one that was not answered as it should have been.
type failedCall struct {
	begun, ended time.Time
	why          string
}

const (
	// checkEvery is shorter than the delay for which a stopping gateway goes on serving.
	checkEvery = 200 * time.Millisecond
	// maxOpen calls under way mean that the system has stopped answering.
	maxOpen = 5000
)

// send starts traffic to a function at so many calls a second. It ends with stop or the test.
func (p *project) send(t *testing.T, function string, perSecond int) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &traffic{function: function, cancel: cancel, gateways: p.nodeGateways(), well: make([]atomic.Bool, len(p.cluster.Nodes)),
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 200}}}
	t.Cleanup(tr.client.CloseIdleConnections)
	t.Cleanup(func() { cancel(); tr.running.Wait() })
	for i := range tr.gateways {
		tr.check(ctx, i)
		tr.running.Go(func() { tr.watch(ctx, i) })
	}
	tr.running.Go(func() { tr.pace(ctx, perSecond) })
	return tr
}

// nodeGateways are the gateways at their nodes' own addresses: behind the loopback ports is a proxy of Docker's, which
// takes connections for gateways that are not there.
func (s *system) nodeGateways() []string {
	var all []string
	for _, node := range s.cluster.Nodes {
		all = append(all, "http://"+node.Address+":8080")
	}
	return all
}

func (tr *traffic) watch(ctx context.Context, gateway int) {
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

func (tr *traffic) check(ctx context.Context, gateway int) {
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
func (tr *traffic) pace(ctx context.Context, perSecond int) {
	begun := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for n := int64(0); ; {
		for due := int64(time.Since(begun).Seconds() * float64(perSecond)); n < due; n++ {
			if tr.open.Load() >= maxOpen {
				tr.fail(failedCall{time.Now(), time.Now(), fmt.Sprintf("%d calls are under way", maxOpen)})
				return
			}
			tr.open.Add(1)
			tr.running.Go(func() {
				defer tr.open.Add(-1)
				tr.call(n)
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
func (tr *traffic) call(n int64) {
	// If none is well, that rather says something about the checks, and load balancers go on as if all were.
	gateway := tr.gateways[int(n)%len(tr.gateways)]
	for i := range tr.gateways {
		if at := (int(n) + i) % len(tr.gateways); tr.well[at].Load() {
			gateway = tr.gateways[at]
			break
		}
	}
	begun := time.Now()
	why := tr.post(fmt.Sprintf("%s/function/%s/slow?for=20ms&n=%d", gateway, tr.function, n), fmt.Sprintf("slow %d\n", n))
	tr.calls.Add(1)
	if why != "" {
		tr.fail(failedCall{begun, time.Now(), why})
	}
}

// post returns why the answer is not what it should be, or "".
func (tr *traffic) post(url, want string) (why string) {
	response, err := tr.client.Post(url, "text/plain", strings.NewReader("x"))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || string(body) != want {
		return fmt.Sprintf("%s %q from %s (%s), %v", response.Status, body, url, response.Header.Get("X-OpenFaaS-Internal"), err)
	}
	return ""
}

func (tr *traffic) fail(f failedCall) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.failed = append(tr.failed, f)
}

// failures are those so far.
func (tr *traffic) failures() []failedCall {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return append([]failedCall(nil), tr.failed...)
}

// stop ends the traffic, waits for the calls under way and says how many there were and which of them failed.
func (tr *traffic) stop() (calls int64, failed []failedCall) {
	tr.cancel()
	tr.running.Wait()
	return tr.calls.Load(), tr.failures()
}

// unharmed wants not one call to have failed while do went on.
func (tr *traffic) unharmed(t *testing.T, what string, do func()) {
	t.Helper()
	callsBefore, failedBefore := tr.calls.Load(), len(tr.failures())
	do()
	failed := tr.failures()[failedBefore:]
	t.Logf("%s: %d calls, %d failed", what, tr.calls.Load()-callsBefore, len(failed))
	for i, f := range failed {
		if i == 5 {
			break
		}
		t.Errorf("%s: a call from %s to %s failed: %s", what, f.begun.Format("05.000"), f.ended.Format("05.000"), f.why)
	}
}
