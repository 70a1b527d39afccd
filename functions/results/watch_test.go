package results

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"waggle/deploy/lab/harness"
)

// bus stands in for Postgres under testing/synctest; TestLink holds both to one behaviour.
type bus struct {
	// mu guards what follows.
	mu     sync.Mutex
	ends   []*busLink
	reads  []time.Time
	broken bool
}

type busLink struct {
	bus    *bus
	number uint32
	heard  chan telling
	hung   chan struct{} // reads wait for it; nil if they do not
}

type telling struct {
	count *count
	from  uint32
}

func (b *bus) dial(context.Context) (link, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken {
		return nil, errors.New("away")
	}
	l := &busLink{bus: b, number: uint32(len(b.ends) + 1), heard: make(chan telling, 1000)}
	b.ends = append(b.ends, l)
	return l, nil
}

func (l *busLink) id() uint32 { return l.number }
func (l *busLink) close()     {}

func (l *busLink) read(ctx context.Context, now time.Time) (*count, error) {
	l.bus.mu.Lock()
	hung := l.hung
	l.bus.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l.bus.mu.Lock()
	defer l.bus.mu.Unlock()
	if l.bus.broken {
		return nil, errors.New("away")
	}
	l.bus.reads = append(l.bus.reads, now)
	c := &count{asOf: now}
	for _, other := range l.bus.ends {
		if other != l {
			other.heard <- telling{c, l.number}
		}
	}
	return c, nil
}

func (l *busLink) await(ctx context.Context, until time.Time) (*count, uint32, error) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case t := <-l.heard:
		return t.count, t.from, nil
	case <-timer.C:
		return nil, 0, nil
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
}

// since counts the readings from a moment on.
func (b *bus) since(from time.Time) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.reads) - slices.IndexFunc(append(slices.Clone(b.reads), from), func(at time.Time) bool { return !at.Before(from) })
}

// TestLink: what one session reads, every other one hears, whole and in order, with the reader's number; a wait ends at
// its time.
func TestLink(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	fill(t, d)
	// More than fits one notification, with characters of several bytes at every place.
	d.SQL(`INSERT INTO tally SELECT 7, n, 0, n FROM generate_series(1, 3000) n;
		INSERT INTO drain_stream (node, inc) SELECT repeat('ж', n), md5(n::text)::uuid FROM generate_series(1, 20) n`)
	h := setup(t, d)
	b := &bus{}
	for name, connect := range map[string]func(context.Context) (link, error){
		"Postgres": func(ctx context.Context) (link, error) {
			return dial(ctx, h.receipts.pool.Config().ConnConfig, h.polls)
		},
		"bus": b.dial,
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			var links [3]link
			for i := range links {
				var err error
				if links[i], err = connect(ctx); err != nil {
					t.Fatal(err)
				}
				defer links[i].close()
			}
			for round := range 3 {
				reader := links[round]
				read, err := reader.read(ctx, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				for i, other := range links {
					if i == round {
						continue
					}
					heard, from := awaitFrom(t, other, reader.id())
					if from != reader.id() || !heard.asOf.Equal(read.asOf) || len(heard.votes) != len(read.votes) || !slices.Equal(heard.streams, read.streams) {
						t.Errorf("link %d heard a count of %v from %d, want that of %v from %d", i, heard.asOf, from, read.asOf, reader.id())
					}
				}
			}
			if c, _, err := links[0].await(ctx, time.Now()); c != nil && name == "bus" || err != nil {
				t.Errorf("a wait until now = %v, %v; want nothing", c, err)
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if _, _, err := links[0].await(ended, time.Now().Add(time.Hour)); !errors.Is(err, context.Canceled) {
				t.Errorf("a wait that is cancelled = %v", err)
			}
		})
	}
}

// awaitFrom waits for a session's count; the function under test listens on the same Postgres and reads, too.
func awaitFrom(t *testing.T, l link, reader uint32) (*count, uint32) {
	t.Helper()
	for {
		c, from, err := l.await(t.Context(), time.Now().Add(time.Minute))
		if err != nil || c == nil {
			t.Fatalf("waiting for a count = %v, %v", c, err)
		}
		if from == reader {
			return c, from
		}
	}
}

// replica is a watcher and what it published last.
type replica struct {
	watcher
	end context.CancelFunc

	mu    sync.Mutex
	at    time.Time
	count *count
	stale bool
}

func startReplica(t *testing.T, group *sync.WaitGroup, b *bus) *replica {
	r := &replica{}
	ctx, cancel := context.WithCancel(t.Context())
	r.end = cancel
	r.watcher = watcher{dial: b.dial, logger: slog.New(slog.DiscardHandler), publish: func(c *count, stale bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.at, r.count, r.stale = time.Now(), c, stale
	}}
	group.Go(func() { r.run(ctx) })
	return r
}

func (r *replica) last() (at time.Time, asOf time.Time, stale bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		return r.at, time.Time{}, r.stale
	}
	return r.at, r.count.asOf, r.stale
}

func TestOneReplicaReadsForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var group sync.WaitGroup
		b := &bus{}
		replicas := make([]*replica, 4)
		for i := range replicas {
			replicas[i] = startReplica(t, &group, b)
		}
		time.Sleep(10 * time.Second)
		settled := time.Now()
		time.Sleep(50 * time.Second)
		if n := b.since(settled); n < 44 || n > 46 {
			t.Errorf("%d readings in 50 s by 4 replicas, want one each 1.1 s", n)
		}
		_, newest, _ := replicas[0].last()
		for i, r := range replicas {
			if _, asOf, stale := r.last(); !asOf.Equal(newest) || stale {
				t.Errorf("replica %d shows %v, stale %v; want %v", i, asOf, stale, newest)
			}
		}

		// The one that reads hangs: another one reads within its patience, and only one.
		hung := make(chan struct{})
		b.mu.Lock()
		for _, l := range b.ends[:1] {
			l.hung = hung
		}
		b.mu.Unlock()
		time.Sleep(10 * time.Second)
		settled = time.Now()
		time.Sleep(20 * time.Second)
		if n := b.since(settled); n < 17 || n > 19 {
			t.Errorf("%d readings in 20 s while one replica hangs, want one each 1.1 s", n)
		}

		// All are killed but one.
		for _, r := range replicas[:3] {
			r.end()
		}
		close(hung)
		time.Sleep(maxPatience + interval)
		settled = time.Now()
		time.Sleep(20 * time.Second)
		if n := b.since(settled); n < 17 || n > 19 {
			t.Errorf("%d readings in 20 s by the last replica, want one each 1.1 s", n)
		}
		replicas[3].end()
		group.Wait()
	})
}

func TestTheLastCountIsShownWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var group sync.WaitGroup
		b := &bus{}
		r := startReplica(t, &group, b)
		time.Sleep(5 * time.Second)
		b.mu.Lock()
		b.broken = true
		b.mu.Unlock()
		time.Sleep(interval + retryPause)
		_, known, stale := r.last()
		if !stale || known.IsZero() {
			t.Errorf("a count of %v, stale %v; want the last one, stale", known, stale)
		}
		time.Sleep(time.Minute)
		if at, asOf, stale := r.last(); !stale || !asOf.Equal(known) || time.Since(at) > retryPause {
			t.Errorf("a minute later: of %v, stale %v, shown %v ago", asOf, stale, time.Since(at))
		}
		b.mu.Lock()
		b.broken = false
		b.mu.Unlock()
		time.Sleep(retryPause + firstPatience + time.Millisecond)
		if _, asOf, stale := r.last(); stale || !asOf.After(known) {
			t.Errorf("after its return: of %v, stale %v", asOf, stale)
		}
		r.end()
		group.Wait()
	})
}

func TestPieces(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		payloads []string
		from     []uint32
		want     string
		fails    bool
	}{
		"one":                      {[]string{"1/1 aGVsbG8="}, []uint32{1}, "hello", false},
		"three":                    {[]string{"1/3 aGU=", "2/3 bGw=", "3/3 bw=="}, []uint32{1, 1, 1}, "hello", false},
		"line breaks":              {[]string{"1/1 aGVs\nbG8="}, []uint32{1}, "hello", false},
		"the beginning is missing": {[]string{"2/2 bGxv"}, []uint32{1}, "", false},
		"of two sessions":          {[]string{"1/2 aGU=", "2/2 bGxv"}, []uint32{1, 2}, "", false},
		"begun again":              {[]string{"1/2 aGU=", "1/1 aGVsbG8="}, []uint32{1, 1}, "hello", false},
		"no numbers":               {[]string{"hello"}, []uint32{1}, "", true},
		"no base64":                {[]string{"1/1 !"}, []uint32{1}, "", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var p pieces
			var got []byte
			var err error
			for i, payload := range test.payloads {
				if got, err = p.add(test.from[i], payload); err != nil {
					break
				}
			}
			if string(got) != test.want || (err != nil) != test.fails {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}
