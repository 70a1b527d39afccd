package swarm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseMemory(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"128Mi": 128 << 20, "1Gi": 1 << 30, "8192Ki": 8 << 20, "0.5Gi": 512 << 20, "1Ti": 1 << 40,
		"128M": 128e6, "1G": 1e9, "9000k": 9e6, "1.5G": 15e8, "128974848": 128974848, "129e6": 129e6, "129E6": 129e6,
		"128m": 128 << 20, "1g": 1 << 30, "8192kb": 8 << 20, "64mb": 64 << 20, "2GB": 2 << 30, "7000000b": 7e6,
		" 64Mi ": 64 << 20,
		// 0: refused
		"": 0, "Mi": 0, "1.Mi": 0, ".5Gi": 0, "-1Mi": 0, "+64Mi": 0, "5Mi": 0, "0": 0, "1Zi": 0, "64 Mi": 0, "64Mi x": 0, "1e99999": 0,
		"9999999999999999999Mi": 0, "2Pi": 0, "NaN": 0, "Inf": 0, "0x40Mi": 0, "1_000M": 0, "64mib": 0, "١Gi": 0,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			got, err := parseMemory("limits.memory", text)
			checkQuantity(t, "limits.memory", text, got, want, err)
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
			got, err := parseCPU("requests.cpu", text)
			checkQuantity(t, "requests.cpu", text, got, want, err)
		})
	}
}

func checkQuantity(t *testing.T, field, text string, got, want int64, err error) {
	t.Helper()
	if want != 0 {
		if err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
		return
	}
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), field) || !strings.Contains(err.Error(), "want") {
		t.Errorf("%q: %d, %v; want an error that names %s and what is legal", text, got, err, field)
	}
}

func TestQuantitiesOfKubernetesAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mebibytes := rapid.Int64Range(6, 1<<30).Draw(t, "Mi")
		if got, err := parseMemory("f", fmt.Sprintf("%dMi", mebibytes)); err != nil || got != mebibytes<<20 {
			t.Fatalf("%dMi: %d, %v", mebibytes, got, err)
		}
		milli := rapid.Int64Range(1, 10_000_000).Draw(t, "m")
		whole, err := parseCPU("f", fmt.Sprintf("%dm", milli))
		decimal, err2 := parseCPU("f", fmt.Sprintf("%d.%03d", milli/1000, milli%1000))
		if err != nil || err2 != nil || whole != milli*1e6 || decimal != whole {
			t.Fatalf("%dm: %d, %v; as decimal %d, %v", milli, whole, err, decimal, err2)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	for _, text := range []string{"128Mi", "100m", "0.5", "1e3", "1E", "999999999999999999.999999999999999999e99Ti", "-0", "\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseMemory("f", text); err == nil && (n < minMemory || n > maxMemory) {
			t.Errorf("memory %q: %d", text, n)
		}
		if n, err := parseCPU("f", text); err == nil && (n < minNanoCPUs || n > maxNanoCPUs) {
			t.Errorf("CPU %q: %d", text, n)
		}
	})
}
