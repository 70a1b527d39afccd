package swarm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"
	"pgregory.net/rapid"
)

func TestParseMemory(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"128Mi": 128 << 20, "1Gi": 1 << 30, "8192Ki": 8 << 20, "0.5Gi": 512 << 20, "1Ti": 1 << 40,
		"128M": 128e6, "1G": 1e9, "9000k": 9e6, "1.5G": 15e8, "128974848": 128974848, "129e6": 129e6, "129E6": 129e6,
		"128m": 128 << 20, "1g": 1 << 30, "8192kb": 8 << 20, "64mb": 64 << 20, "2GB": 2 << 30, "7000000b": 7e6,
		" 64Mi ": 64 << 20, "5Mi": minMemory, "1": minMemory, "6291455": minMemory,
		// 0: refused
		"": 0, "Mi": 0, "1.Mi": 0, ".5Gi": 0, "-1Mi": 0, "+64Mi": 0, "0": 0, "0.0Mi": 0, "1Zi": 0, "64 Mi": 0, "64Mi x": 0, "1e99999": 0,
		"9999999999999999999Mi": 0, "2Pi": 0, "NaN": 0, "Inf": 0, "0x40Mi": 0, "1_000M": 0, "64mib": 0, "١Gi": 0,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			got, raised, legal := parseMemory(text)
			checkQuantity(t, text, got, want, legal)
			if raised != (want == minMemory) {
				t.Errorf("%q: raised is %t", text, raised)
			}
		})
	}
}

func TestParseCPU(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"100m": 100e6, "1m": 1e6, "0.5": 5e8, "1": 1e9, "2.25": 225e7, "1500m": 15e8, "0.001": 1e6, "1e1": 1e10, "1.5m": 15e5,
		"": 0, "0": 0, "0.0001": 0, "0.5m": 0, "-1": 0, "1G": 0, "1M": 0, "one": 0, "20000": 0, "1 m": 0, "1e20": 0,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			got, legal := parseCPU(text)
			checkQuantity(t, text, got, want, legal)
		})
	}
}

func checkQuantity(t *testing.T, text string, got, want int64, legal string) {
	t.Helper()
	if got != want || (legal == "") != (want != 0) {
		t.Errorf("%q: %d, legal is %q; want %d", text, got, legal, want)
	}
}

// TestTooLittleMemoryIsRaised: files that come from Kubernetes have less than an engine takes.
func TestTooLittleMemoryIsRaised(t *testing.T) {
	t.Parallel()
	d := types.FunctionDeployment{Limits: &types.FunctionResources{Memory: "5Mi"}, Requests: &types.FunctionResources{Memory: "4M", CPU: "20m"}}
	o, err := parseOptions(&d)
	if err != nil || o.limits != (quantities{0, 6 << 20}) || o.requests != (quantities{20e6, 6 << 20}) {
		t.Errorf("limits %+v, requests %+v, %v", o.limits, o.requests, err)
	}
	if w := Warnings(d); len(w) != 2 || !strings.HasPrefix(w[0], `limits.memory "5Mi" is raised to 6Mi`) || !strings.HasPrefix(w[1], `requests.memory "4M"`) {
		t.Errorf("warnings are %q", w)
	}
}

func TestQuantitiesOfKubernetesAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mebibytes := rapid.Int64Range(6, 1<<30).Draw(t, "Mi")
		if got, raised, legal := parseMemory(fmt.Sprintf("%dMi", mebibytes)); legal != "" || raised || got != mebibytes<<20 {
			t.Fatalf("%dMi: %d, %t, %q", mebibytes, got, raised, legal)
		}
		milli := rapid.Int64Range(1, 10_000_000).Draw(t, "m")
		whole, legal := parseCPU(fmt.Sprintf("%dm", milli))
		decimal, legal2 := parseCPU(fmt.Sprintf("%d.%03d", milli/1000, milli%1000))
		if legal != "" || legal2 != "" || whole != milli*1e6 || decimal != whole {
			t.Fatalf("%dm: %d, %q; as decimal %d, %q", milli, whole, legal, decimal, legal2)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	for _, text := range []string{"128Mi", "100m", "0.5", "1e3", "1E", "999999999999999999.999999999999999999e99Ti", "-0", "\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, _, legal := parseMemory(text); legal == "" && (n < minMemory || n > maxMemory) {
			t.Errorf("memory %q: %d", text, n)
		}
		if n, legal := parseCPU(text); legal == "" && (n < minNanoCPUs || n > maxNanoCPUs) {
			t.Errorf("CPU %q: %d", text, n)
		}
	})
}
