//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// testAsync makes asynchronous calls through the real gateway, its queue's Redis, and real replicas.
func (p *project) testAsync(t *testing.T) {
	flaky := p.probe("flaky", nil)
	for key, value := range map[string]string{"attempts": "10", "codes": "500,503", "min_wait": "50ms", "max_wait": "1s"} {
		(*flaky.Annotations)["com.openfaas.retry."+key] = value
	}
	p.deploy(t, flaky)
	p.deploy(t, p.probe("collector", nil))
	for _, name := range []string{"flaky", "collector"} {
		testbed.Eventually(t, time.Minute, func() error { return p.answers("/function/"+name+"/x", "GET /x") })
	}
	t.Run("cancelled before and during a run", p.testCancel)
	t.Run("5,000 calls while the gateway is killed twice", p.testKilledGateway)
}

// memories is what a probe remembers of asynchronous calls.
type memories struct {
	Runs      map[string]int
	Succeeded map[string]int
	Told      map[string]string
}

func (p *project) noted(t *testing.T, function string) (m memories) {
	t.Helper()
	response, err := callers.Get(p.Gateway + "/function/" + function + "/noted")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&m); err != nil {
		t.Fatalf("%s, %v", response.Status, err)
	}
	return m
}

// submit sends a call until it is acknowledged. The same id tells the gateway that it has it already.
func (p *project) submit(t *testing.T, id, target, callback string) {
	for t.Context().Err() == nil {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Gateway+"/async-function/"+target, strings.NewReader("hello"))
		if err != nil {
			t.Error(err)
			return
		}
		request.Header.Set("X-Call-Id", id)
		if callback != "" {
			request.Header.Set("X-Callback-Url", callback)
		}
		response, err := callers.Do(request)
		if err == nil {
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			switch response.StatusCode {
			case http.StatusAccepted, http.StatusConflict:
				return
			case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusNotFound: // a gateway that has just started
			default:
				t.Errorf("%s: %s %s", id, response.Status, text)
				return
			}
		}
		time.Sleep(50 * time.Millisecond) // a client's patience while the gateway is away
	}
}

// queue is what /system/queue says.
type queue struct {
	Pending, Running, Callbacks, Dead int
	Owner                             bool
}

func (p *project) queue(t *testing.T) (q queue, err error) {
	status, text, err := p.ask(t, http.MethodGet, "/system/queue", nil)
	if err != nil {
		return q, err
	}
	if status != http.StatusOK {
		return q, fmt.Errorf("status %d: %s", status, text)
	}
	return q, json.Unmarshal([]byte(text), &q)
}

func (p *project) queueBecomes(t *testing.T, within time.Duration, holds func(queue) bool) {
	t.Helper()
	testbed.Eventually(t, within, func() error {
		q, err := p.queue(t)
		if err == nil && !holds(q) {
			err = fmt.Errorf("the queue is %+v", q)
		}
		return err
	})
}

func (p *project) testCancel(t *testing.T) {
	const callback = "http://gateway:8080/function/collector/note"
	p.submit(t, "sleeping", "flaky/sleep", callback)
	p.queueBecomes(t, time.Minute, func(q queue) bool { return q.Running == 1 })
	away := p.probe("nowhere", nil)
	away.Constraints = []string{"node.hostname == nowhere"}
	p.call(t, "POST", "/system/functions", away, http.StatusAccepted)
	t.Cleanup(func() { p.remove(t, "nowhere") })
	testbed.Eventually(t, time.Minute, func() error {
		response, err := callers.Post(p.Gateway+"/async-function/nowhere", "text/plain", nil)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusAccepted {
			return fmt.Errorf("%s", response.Status)
		}
		id := response.Header.Get("X-Call-Id")
		p.call(t, "DELETE", "/async-function/"+id, nil, http.StatusAccepted)
		return nil
	})
	p.call(t, "DELETE", "/async-function/sleeping", nil, http.StatusAccepted)
	p.queueBecomes(t, 10*time.Second, func(q queue) bool { return q.Pending+q.Running+q.Callbacks == 0 })
	if told := p.noted(t, "collector").Told; len(told) != 0 {
		t.Errorf("callbacks of cancelled calls: %v", told)
	}
}

// testKilledGateway is the promise: whatever is accepted is completed or a dead letter, and its callback is delivered.
func (p *project) testKilledGateway(t *testing.T) {
	const calls = 5000
	next, accepted := make(chan string), make(chan struct{}, calls)
	var clients sync.WaitGroup
	begun := time.Now()
	for range 16 {
		clients.Go(func() {
			for id := range next {
				p.submit(t, id, "flaky/flaky", "http://gateway:8080/function/collector/note")
				accepted <- struct{}{}
			}
		})
	}
	var ids []string
	for n := range calls {
		id := fmt.Sprintf("call-%d", n)
		if n%250 == 0 {
			id += "-doomed"
		}
		ids = append(ids, id)
	}
	go func() {
		defer close(next)
		for _, id := range ids {
			next <- id
		}
	}()
	for n := 1; n <= calls; n++ {
		select {
		case <-accepted:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
		if n == calls/3 || n == 2*calls/3 {
			if _, err := p.Target.Manager.Run(t.Context(), "kill", "--signal", "KILL", p.oneContainer(t, "waggle_gateway")); err != nil {
				t.Fatal(err)
			}
		}
	}
	clients.Wait()
	took := time.Since(begun)
	p.queueBecomes(t, 3*time.Minute, func(q queue) bool { return q.Pending+q.Running+q.Callbacks == 0 })
	t.Logf("%d calls accepted in %s, all settled after %s", calls, took.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	p.judgeCalls(t, ids)
}

func (p *project) judgeCalls(t *testing.T, ids []string) {
	t.Helper()
	var letters []struct {
		ID string `json:"call_id"`
	}
	if err := json.Unmarshal([]byte(p.call(t, http.MethodGet, "/system/queue/dead?limit=1000", nil, http.StatusOK)), &letters); err != nil {
		t.Fatal(err)
	}
	dead := map[string]bool{}
	for _, l := range letters {
		dead[l.ID] = true
	}
	told, succeeded, doomed := p.noted(t, "collector").Told, p.noted(t, "flaky").Succeeded, 0
	for _, id := range ids {
		fails := strings.HasSuffix(id, "-doomed")
		if fails {
			doomed++
		}
		if fails && (told[id] == "200" || told[id] == "" || !dead[id]) || !fails && (told[id] != "200" || succeeded[id] == 0) {
			t.Errorf("%s: %d successes, dead letter: %v, its callback was told %q", id, succeeded[id], dead[id], told[id])
		}
	}
	if len(dead) != doomed {
		t.Errorf("%d dead letters, want %d", len(dead), doomed)
	}
	for id := range dead {
		p.call(t, http.MethodDelete, "/system/queue/dead/"+id, nil, http.StatusAccepted)
	}
}
