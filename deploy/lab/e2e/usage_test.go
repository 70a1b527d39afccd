//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/lab/testbed"
)

// testUsage describes a function of which no replica runs on the manager's node. The description must tell what
// all of them consume, and agree with what their own engines say.
func (s *system) testUsage(t *testing.T) {
	sizes := map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
	var memory float64
	replicas := 0
	for engine, all := range s.containersOf(t, "vote") {
		if engine == s.Target.Manager {
			t.Fatal("a vote replica runs on the manager's node, where usage proves nothing")
		}
		for _, c := range all {
			out, err := engine.Run(t.Context(), "stats", "--no-stream", "--format", "{{.MemUsage}}", strings.TrimPrefix(c.Name, "/"))
			if err != nil {
				t.Fatal(err)
			}
			var used float64
			var unit string
			if _, err := fmt.Sscanf(out, "%f%s", &used, &unit); err != nil || sizes[unit] == 0 {
				t.Fatalf("the engine says %q: %v", out, err)
			}
			memory += used * sizes[unit]
			replicas++
		}
	}
	var status types.FunctionStatus
	testbed.Eventually(t, 30*time.Second, func() error {
		code, text, err := s.ask(t, http.MethodGet, "/system/function/vote?usage=1", nil)
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("status %d, %w: %s", code, err, text)
		}
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return err
		}
		if status.Usage == nil {
			return errors.New("no usage")
		}
		return nil
	})
	got := status.Usage
	if got.CPU <= 0 || got.TotalMemoryBytes < memory/2 || got.TotalMemoryBytes > memory*2 {
		t.Errorf("usage is %+v, want more than no processor and about %.0f bytes", *got, memory)
	}
	t.Logf("%d replicas: %.1f thousandths of a processor, %.0f bytes; their engines say %.0f bytes", replicas, got.CPU, got.TotalMemoryBytes, memory)
}
