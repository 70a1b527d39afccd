//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/logs"

	"waggle/deploy/lab/testbed"
)

// line is what the probe writes for a length.
func line(length int) string {
	text := make([]byte, length)
	for i := range text {
		text[i] = byte('a' + (i*i+7*i+length)%26)
	}
	return string(text)
}

// lengths are those at which a reader of Docker's frames can fail. A byte of the frame's header is a newline, a space
// or carries over. The engine splits long lines. A writer's pipe is full.
func lengths() []int {
	var all []int
	add := func(from, to int) {
		for n := from; n <= to; n++ {
			all = append(all, n)
		}
	}
	add(1, 600)
	add(2560, 2815)
	for n := 1024; n <= 65536; n *= 2 {
		add(n-2, n+2)
	}
	add(3*16384-1, 3*16384+1)
	return append(all, 69_999, 70_000)
}

// testLogLines writes each line once and wants each back, whole and in order.
func (p *project) testLogLines(t *testing.T) {
	d := p.probe("writer", map[string]string{"exec_timeout": "5s"})
	p.deploy(t, d)
	want := lengths()
	// The engine drops lines when more than its buffer of 4 MB are waiting, so they come in parts.
	for from := 0; from < len(want); from += 100 {
		var fields []string
		for _, length := range want[from:min(from+100, len(want))] {
			fields = append(fields, strconv.Itoa(length))
		}
		p.invoke(t, "/function/writer/lines", strings.Join(fields, " "))
	}
	testbed.Eventually(t, 30*time.Second, func() error {
		var got []string
		for _, message := range p.logLines(t, "name=writer&follow=false") {
			if !strings.HasPrefix(message.Text, "{") { // what the template itself says is JSON
				got = append(got, message.Text)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%d lines, want %d", len(got), len(want))
		}
		for i, length := range want {
			if got[i] != line(length) {
				return fmt.Errorf("line %d has %d bytes, want the one of %d: %.60q", i, len(got[i]), length, got[i])
			}
		}
		return nil
	})
	t.Logf("%d lines of 1 to 70,000 bytes came back whole", len(want))
}

// testFollow scales from one replica to three and back while somebody follows.
func (p *project) testFollow(t *testing.T) {
	p.deploy(t, p.probe("beater", map[string]string{"beat": "100ms"}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	body := p.openLogs(ctx, t, "name=beater&follow=true&tail=-1")
	defer body.Close()
	decoder := json.NewDecoder(body)
	seen := map[string]int{}
	// until reads on until what is wanted was seen.
	until := func(what string, wanted func() bool) {
		t.Helper()
		for !wanted() {
			var message logs.Message
			if err := decoder.Decode(&message); err != nil {
				t.Fatalf("waiting for %s: %v; lines by replica: %v", what, err, seen)
			}
			if message.Name != "beater" || message.Namespace != "openfaas-fn" || message.Instance == "" || message.Timestamp.IsZero() {
				t.Fatalf("a message that lacks something: %+v", message)
			}
			seen[message.Instance]++
		}
	}
	until("the first replica", func() bool { return len(seen) == 1 })
	p.scaleTo(t, "beater", 3)
	until("three replicas", func() bool { return len(seen) == 3 })
	p.scaleTo(t, "beater", 1)
	p.available(t, "beater", 1)
	// All but one fall silent; the one that is left goes on.
	status, err := p.Target.Manager.Run(t.Context(), "service", "ps", "--no-trunc", "--filter", "desired-state=running", "--format", "{{.ID}}", "beater")
	if err != nil {
		t.Fatal(err)
	}
	left, before := strings.TrimSpace(status), 0
	if before = seen[left]; before == 0 {
		t.Fatalf("the replica that is left, %q, is none of those seen: %v", left, seen)
	}
	until("the replica that is left", func() bool { return seen[left] > before+20 })
	t.Logf("lines by replica: %v", seen)
}
