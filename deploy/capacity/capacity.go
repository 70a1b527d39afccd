// Package capacity says what machines an event needs: the calculator of `make capacity`.
//
// In: how many people vote within how many minutes. Out: machines by role, memory, disk and network, with the sum that led
// to each. Its figures are those of docs/capacity.md, which says how they were measured; they are pure numbers, and no
// machine is asked.
package capacity

import (
	"fmt"
	"io"
	"math"
	"time"
)

// Config describes the event and the machines.
type Config struct {
	// Votes is how many people vote; at least 1.
	Votes int64
	// Minutes is the time in which they do; at least 1.
	Minutes float64
	// Peak is by how much the busiest minute exceeds the mean; 1 to 100. 0 means 3.
	Peak float64
	// Cores is the number of processors of each machine, 1 to 1024; 0 means 4.
	Cores int
	// Outage is how long counting may stand still, a broken database, without votes being refused; 0 means 1 h.
	Outage time.Duration
}

// What a vote costs, in microseconds of a processor, measured on shared machines: docs/capacity.md.
const (
	gatewayCost = 560
	ballotCost  = 810
	redisCost   = 305
	workerCost  = 125
	storeCost   = 160
)

const (
	// busy is the share of a processor that is planned with: what is above it makes requests wait.
	busy = 0.5
	// captureBytes is a vote with its copy in Redis until it is counted and trimmed. Before a log is written anew, disks hold
	// diskFactor of that: old, new and what came meanwhile.
	captureBytes = 220
	diskFactor   = 3
	// storeBytes is a vote in Postgres with its indexes. storeFactor adds changed votes, the log and room for vacuum.
	storeBytes  = 180
	storeFactor = 3
	// wireBytes is what a voter's browser and the gateway exchange: the ballot, the press, a look at the results.
	// insideBytes is what a vote moves between machines.
	wireBytes   = 20000
	insideBytes = 3000
	// systemMemory is for everything else on a machine.
	systemMemory = 2 << 30
)

// Plan is what an event needs.
type Plan struct {
	Config
	// Mean and Busiest are votes a second.
	Mean, Busiest float64
	// Edge, Capture, Worker and Store are machines of each role, without those that stand by.
	Edge, Capture, Workers, Store int
	// RedisMemory and RedisDisk are of each capture machine, StoreDisk of the store, in bytes.
	RedisMemory, RedisDisk, StoreDisk int64
	// EdgeBits and CaptureBits are of each machine, in bits a second in the busiest minute.
	EdgeBits, CaptureBits float64
}

func (c Config) withDefaults() Config {
	if c.Peak == 0 {
		c.Peak = 3
	}
	if c.Cores == 0 {
		c.Cores = 4
	}
	if c.Outage == 0 {
		c.Outage = time.Hour
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Votes < 1 || c.Votes > 10_000_000_000:
		return fmt.Errorf("VOTES is %d: must be 1 to 10000000000", c.Votes)
	case !(c.Minutes >= 1 && c.Minutes <= 1_000_000):
		return fmt.Errorf("MINUTES is %g: must be 1 to 1000000", c.Minutes)
	case !(c.Peak >= 1 && c.Peak <= 100):
		return fmt.Errorf("PEAK is %g: must be 1 to 100", c.Peak)
	case c.Cores < 1 || c.Cores > 1024:
		return fmt.Errorf("CORES is %d: must be 1 to 1024", c.Cores)
	case c.Outage < time.Minute || c.Outage > 30*24*time.Hour:
		return fmt.Errorf("OUTAGE is %s: must be 1m to 720h", c.Outage)
	}
	return nil
}

// For makes the plan, or says which number is not legal.
func For(c Config) (Plan, error) {
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return Plan{}, err
	}
	p := Plan{Config: c, Mean: float64(c.Votes) / (c.Minutes * 60)}
	p.Busiest = p.Mean * c.Peak
	machines := func(cost float64) int {
		return int(math.Ceil(p.Busiest * cost / 1e6 / (float64(c.Cores) * busy)))
	}
	// A Redis has one thread. Two at least: one may be lost, drained or restarted at any time, and a vote needs two disks.
	p.Edge = max(2, machines(gatewayCost))
	p.Capture = max(2, machines(ballotCost+redisCost), int(math.Ceil(p.Busiest*redisCost/1e6/busy)))
	p.Workers = max(1, machines(workerCost))
	p.Store = 1
	// One capture machine may be away: the others hold everything that an outage leaves uncounted.
	waiting := math.Min(float64(c.Votes), p.Busiest*c.Outage.Seconds())
	each := waiting * captureBytes / float64(max(1, p.Capture-1))
	// A quarter of Redis's memory is kept for votes that are counted already.
	p.RedisMemory = int64(math.Max(512<<20, each/0.75))
	p.RedisDisk = diskFactor * p.RedisMemory
	p.StoreDisk = c.Votes*storeBytes*storeFactor + 10<<30
	p.EdgeBits = p.Busiest * wireBytes * 8 / float64(p.Edge)
	p.CaptureBits = p.Busiest * insideBytes * 8 / float64(p.Capture)
	return p, nil
}

// StoreCores is how many processors counting takes of Postgres in the busiest minute.
func (p Plan) StoreCores() int { return max(1, int(math.Ceil(p.Busiest*storeCost/1e6/busy))) }

// Print writes the plan for people.
func (p Plan) Print(out io.Writer) {
	line := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	line("%d votes in %g minutes: %.0f a second in the mean, %.0f in the busiest minute (PEAK=%g).", p.Votes, p.Minutes, p.Mean, p.Busiest, p.Peak)
	line("Machines of %d processors, planned half busy:", p.Cores)
	line("")
	line("  %-9s %3d  %s in and out each; 2 GB of memory each", "edge", p.Edge, bits(p.EdgeBits))
	line("  %-9s %3d  capture: { maxmemory: %dmb }, %s of memory and %s of fast disk each, %s", "capture", p.Capture, p.RedisMemory>>20,
		bytes(2*p.RedisMemory+systemMemory), bytes(p.RedisDisk), bits(p.CaptureBits))
	line("  %-9s %3d  workers: %d", "worker", p.Workers, p.Workers)
	line("  %-9s %3d  %d processors for Postgres, 8 GB of memory, %s of disk", "store", p.Store, p.StoreCores(), bytes(p.StoreDisk))
	line("  %-9s %3d  may be edge machines", "manager", 3)
	line("")
	line("Counting may stand still for %s (OUTAGE) with one capture machine away before a vote is refused.", p.Outage)
	line("The formulas and their figures: docs/capacity.md. Prove it on the machines themselves: make voters.")
}

func bytes(n int64) string {
	if n < 10<<30 {
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.0f GB", float64(n)/1e9)
}

func bits(n float64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.0f Mbit/s", n/1e6)
	}
	return fmt.Sprintf("%.1f Gbit/s", n/1e9)
}
