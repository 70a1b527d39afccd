package capacity

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMistakesNameWhatIsLegal(t *testing.T) {
	t.Parallel()
	good := Config{Votes: 1000, Minutes: 10}
	if _, err := For(good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"VOTES is 0: must be 1 to":      func(c *Config) { c.Votes = 0 },
		"MINUTES is 0: must be 1 to":    func(c *Config) { c.Minutes = 0 },
		"PEAK is 0.5: must be 1 to 100": func(c *Config) { c.Peak = 0.5 },
		"CORES is -1: must be 1 to":     func(c *Config) { c.Cores = -1 },
		"OUTAGE is 1s: must be 1m to":   func(c *Config) { c.Outage = time.Second },
	} {
		c := good
		change(&c)
		if _, err := For(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A small event fits the smallest cluster in which each machine may be lost.
func TestTheSmallestPlan(t *testing.T) {
	t.Parallel()
	p, err := For(Config{Votes: 1000, Minutes: 60})
	if err != nil {
		t.Fatal(err)
	}
	if p.Edge != 2 || p.Capture != 2 || p.Workers != 1 || p.RedisMemory != 512<<20 {
		t.Errorf("got %+v", p)
	}
}

// More votes, less time, a higher peak, fewer processors: none of them makes a plan smaller.
func TestPlansGrowWithWhatIsAsked(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		small := Config{
			Votes: rapid.Int64Range(1, 1e8).Draw(t, "votes"), Minutes: float64(rapid.IntRange(2, 10000).Draw(t, "minutes")),
			Peak: float64(rapid.IntRange(1, 20).Draw(t, "peak")), Cores: rapid.IntRange(2, 64).Draw(t, "cores"),
		}
		large := small
		large.Votes, large.Minutes, large.Peak, large.Cores = 2*small.Votes, small.Minutes/2, small.Peak+1, small.Cores/2
		a, errA := For(small)
		b, errB := For(large)
		if errA != nil || errB != nil {
			t.Fatalf("%v, %v", errA, errB)
		}
		if b.Edge < a.Edge || b.Capture < a.Capture || b.Workers < a.Workers || b.StoreCores() < a.StoreCores() || b.StoreDisk < a.StoreDisk {
			t.Fatalf("%+v needs %+v, and %+v no more than %+v", small, a, large, b)
		}
		// With one capture machine away the others hold what an outage leaves uncounted.
		held := float64(a.RedisMemory) * 0.75 * float64(a.Capture-1)
		if waiting := min(float64(a.Votes), a.Busiest*a.Outage.Seconds()) * captureBytes; held+float64(a.Capture) < waiting {
			t.Fatalf("%+v: %g bytes wait and %g fit", a, waiting, held)
		}
	})
}

// The page has the figures that the calculator uses.
func TestThePageHasTheFigures(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/capacity.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]int{
		"gateway": gatewayCost, "ballot": ballotCost, "redis": redisCost, "worker": workerCost, "postgres": storeCost,
	} {
		if row := "| " + name + " | " + strconv.Itoa(value) + " |"; !strings.Contains(string(page), row) {
			t.Errorf("the page has no row %q", row)
		}
	}
	for _, value := range []int{captureBytes, storeBytes, wireBytes, insideBytes} {
		if !strings.Contains(string(page), strconv.Itoa(value)) {
			t.Errorf("the page does not have %d", value)
		}
	}
}
