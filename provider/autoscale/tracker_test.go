package autoscale

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waggle/provider/feed"
)

func webPolicy() Policy {
	return Policy{Scale: feed.Scale{Min: 1, Max: 60, Type: feed.ScaleRPS, Target: 50, Proportion: 0.9, DownWindow: 30 * time.Second,
		ZeroDuration: time.Minute}, MaxInflight: 10}
}

// play has a tracker see seconds of load from gateways, and applies what it decides at once.
type play struct {
	tracker  Tracker
	now      time.Time
	replicas Replicas
	record   []Input
	gateways []Load
}

func begin(p Policy, replicas int, gateways int) *play {
	one := &play{now: noon, replicas: Replicas{Desired: replicas, Ready: replicas}, gateways: make([]Load, gateways)}
	for i := range one.gateways {
		one.gateways[i].Gateway = fmt.Sprint(i)
	}
	one.take(Input{Kind: Begin, Policy: p, Replicas: one.replicas})
	return one
}

func (o *play) take(in Input) Decision {
	in.At = o.now
	d := o.tracker.Take(in)
	in.Decision = d
	o.record = append(o.record, in)
	return d
}

// second passes with a rate that the gateways share; one that is silent says nothing.
func (o *play) second(rate float64, silent ...int) Decision {
	o.now = o.now.Add(time.Second)
	for i := range o.gateways {
		g := &o.gateways[i]
		n := uint64(rate / float64(len(o.gateways)))
		g.Started, g.Completed = g.Started+n, g.Completed+n
		g.Inflight = int(n / 5)
		if !slices.Contains(silent, i) {
			o.take(Input{Kind: Reported, Load: *g})
		}
	}
	d := o.take(Input{Kind: AskSecond})
	o.settle(d.Desired)
	return d
}

func (o *play) settle(desired int) {
	if desired != o.replicas.Desired {
		o.replicas = Replicas{Desired: desired, Ready: desired}
		o.take(Input{Kind: ReplicasChanged, Replicas: o.replicas})
	}
}

func (o *play) seconds(n int, rate float64, silent ...int) (d Decision) {
	for range n {
		d = o.second(rate, silent...)
	}
	return d
}

func TestAFirstReportMakesNoRate(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 1)
	o.gateways[0].Started, o.gateways[0].Completed = 1_000_000, 1_000_000
	if d := o.seconds(10, 10); d.Desired != 1 {
		t.Errorf("years of counts became %+v", d)
	}
}

func TestCountersThatFallMakeNoRate(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 1)
	o.seconds(10, 10)
	o.gateways[0].Started, o.gateways[0].Completed = 0, 0
	if d := o.seconds(10, 10); d.Desired != 1 {
		t.Errorf("got %+v", d)
	}
}

func TestASilenceIsDividedByItsTime(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 2)
	o.seconds(10, 20)
	o.seconds(20, 20, 1)
	if d := o.seconds(10, 20); d.Desired != 1 {
		t.Errorf("20 seconds in one report became %+v", d)
	}
}

func TestHowLoadIsSharedByGatewaysChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		many := rapid.IntRange(2, 8).Draw(t, "gateways")
		one, several := begin(webPolicy(), 3, 1), begin(webPolicy(), 3, many)
		for range rapid.IntRange(5, 60).Draw(t, "seconds") {
			// Whole requests in whole shares, so that nothing is rounded: the counts of a gateway are whole numbers.
			rate := float64(5 * many * rapid.IntRange(0, 200).Draw(t, "rate"))
			a, b := one.second(rate), several.second(rate)
			if a != b {
				t.Fatalf("one gateway: %+v, %d: %+v", a, many, b)
			}
			shuffled := rapid.Permutation(several.gateways).Draw(t, "order")
			several.gateways = shuffled
		}
	})
}

func TestASilentGatewayNeitherAddsNorRemoves(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 2)
	before := o.seconds(60, 450).Desired
	for i := range 30 {
		if d := o.second(225, 1); d.Desired != before {
			t.Fatalf("after %d s of silence: %+v instead of %d", i, d, before)
		}
	}
	// It has ended: the other one has all of the load from now on, which is half.
	o.take(Input{Kind: GatewayGone, Gateway: "1"})
	if d := o.seconds(60, 225, 1); d.Desired >= before {
		t.Errorf("still %+v", d)
	}
}

func TestARestartRemovesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := float64(10 * rapid.IntRange(1, 200).Draw(t, "rate"))
		replicas := rapid.IntRange(1, 60).Draw(t, "replicas")
		o := begin(webPolicy(), replicas, 2)
		for range 28 {
			if d := o.second(rate); d.Desired < replicas {
				t.Fatalf("%+v after a restart with %d", d, replicas)
			}
		}
	})
}

func TestAMissedMinuteRemovesNothing(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 1)
	before := o.seconds(60, 450).Desired
	for _, jump := range []time.Duration{time.Minute, -time.Minute} {
		o.now = o.now.Add(jump)
		for range 25 {
			if d := o.second(20); d.Desired < before {
				t.Fatalf("%+v after the clock went by %s", d, jump)
			}
		}
	}
}

func TestANumberSetByHandStaysForTheWindow(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 1)
	o.seconds(60, 20)
	o.take(Input{Kind: SetByOthers, Number: 12})
	o.settle(12)
	for i := range 28 {
		if d := o.second(20); d.Desired != 12 {
			t.Fatalf("after %d s: %+v", i, d)
		}
	}
	if d := o.seconds(15, 20); d.Desired != 1 {
		t.Errorf("after the window: %+v", d)
	}
}

func TestSleepComesByIdlenessAlone(t *testing.T) {
	t.Parallel()
	p := webPolicy()
	p.Zero = true
	o := begin(p, 1, 1)
	o.seconds(10, 20)
	// A call that lasts longer than zero-duration keeps its function.
	for i := range 90 {
		o.now = o.now.Add(time.Second)
		o.gateways[0].Inflight = 1
		o.take(Input{Kind: Reported, Load: o.gateways[0]})
		if d := o.take(Input{Kind: AskSecond}); d.Desired == 0 {
			t.Fatalf("put to sleep with a call of %d s under way", i)
		}
	}
	for i := range 59 {
		if d := o.second(0); d.Desired == 0 {
			t.Fatalf("put to sleep after %d s", i)
		}
	}
	if first, second := o.second(0), o.second(0); first != (Decision{Reason: Idle}) || second != (Decision{Reason: Asleep}) {
		t.Errorf("after a minute: %+v, then %+v", first, second)
	}
	if d := o.take(Input{Kind: AskWake}); d.Desired != 1 || d.Reason != Woken {
		t.Errorf("woken: %+v", d)
	}
}

func TestWakeIsSizedByWhatWaits(t *testing.T) {
	t.Parallel()
	p := webPolicy()
	p.Type, p.Target = feed.ScaleCapacity, 10
	o := begin(p, 0, 1)
	o.gateways[0].Held = 200
	o.take(Input{Kind: Reported, Load: o.gateways[0]})
	if d := o.take(Input{Kind: AskWake}); d.Desired != 23 {
		t.Errorf("200 at once, 9 each: %+v", d)
	}
}

func TestTroubleEndsGrowth(t *testing.T) {
	t.Parallel()
	for reason, trouble := range map[Reason]Replicas{
		ClusterFull: {Desired: 3, Ready: 2, Unplaced: 1},
		FailToStart: {Desired: 3, Ready: 2, Starting: 1, Failed: 3},
	} {
		o := begin(webPolicy(), 3, 1)
		o.take(Input{Kind: ReplicasChanged, Replicas: trouble})
		o.replicas = trouble
		calls, desired := 0, 3
		var d Decision
		for range 120 {
			if d = o.second(1000); d.Desired != desired {
				calls, desired = calls+1, d.Desired
			}
			trouble.Desired = desired
			o.take(Input{Kind: ReplicasChanged, Replicas: trouble})
			o.replicas = trouble
		}
		if d.Reason != reason || calls > 2 {
			t.Errorf("%s: %+v after %d calls", reason, d, calls)
		}
	}
}

func TestAQueueThatIsSoonDrainedAddsNone(t *testing.T) {
	t.Parallel()
	p := webPolicy()
	p.Type, p.Target = feed.ScaleQueue, 10
	o := begin(p, 1, 1)
	queue := func(due, done int) Decision {
		o.now = o.now.Add(time.Second)
		g := &o.gateways[0]
		g.Due, g.Completed, g.Started = due, g.Completed+uint64(done), g.Started+uint64(done)
		o.take(Input{Kind: Reported, Load: *g})
		d := o.take(Input{Kind: AskSecond})
		o.settle(d.Desired)
		return d
	}
	queue(0, 0)
	queue(100, 50)
	if d := queue(60, 50); d.Desired != 1 || d.Reason != SoonDrained {
		t.Errorf("60 calls at 50/s: %+v", d)
	}
	for range 3 {
		queue(1000, 50)
	}
	if d := queue(1000, 50); d.Desired < 60 {
		t.Errorf("1000 calls: %+v", d)
	}
}

func TestReplayEqualsRecord(t *testing.T) {
	t.Parallel()
	o := begin(webPolicy(), 1, 2)
	for i := range 200 {
		o.second(float64((i * 37) % 900))
		if i%7 == 0 {
			o.gateways[0].Held += 30
			o.take(Input{Kind: Reported, Load: o.gateways[0]})
			o.settle(o.take(Input{Kind: AskUrgent}).Desired)
			o.gateways[0].Held = 0
		}
	}
	var record, out bytes.Buffer
	w := &recorder{out: &record, logger: slog.New(slog.DiscardHandler)}
	for _, in := range o.record {
		w.write("web.openfaas-fn", in, in.Decision)
	}
	text := record.String()
	if err := Replay(strings.NewReader(text), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), " 0 of which differ") || strings.Count(out.String(), "→") < 5 {
		t.Errorf("got %s", out.String())
	}
	changed := strings.Replace(text, `"decision":{"desired":`, `"decision":{"desired":9`, 1)
	if err := Replay(strings.NewReader(changed), &out); !errors.Is(err, ErrDiffers) {
		t.Errorf("another decision: %v", err)
	}
	for _, broken := range []string{"{", text[strings.Index(text, "\n")+1:]} {
		if err := Replay(strings.NewReader(broken), &out); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("a broken record: %v", err)
		}
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	o := begin(webPolicy(), 1, 2)
	o.seconds(20, 300)
	if n := testing.AllocsPerRun(100, func() { o.tracker.Take(Input{At: o.now, Kind: AskSecond}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
