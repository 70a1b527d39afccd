package swarm

import (
	"fmt"
	"sync"
	"testing"
)

func TestKeyedLocksExcludeByKeyAndLeaveNothing(t *testing.T) {
	t.Parallel()
	var locks keyedLocks
	counters := make([]int, 4) // the race detector would see two writers of one
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			for range 100 {
				unlock := locks.lock(fmt.Sprint(i % len(counters)))
				counters[i%len(counters)]++
				unlock()
			}
		})
	}
	// A key that is held stops nobody who wants another.
	unlock := locks.lock("held")
	group.Wait()
	if _, free := locks.tryLock("held"); free {
		t.Error("a key that is held was taken")
	}
	unlock()
	if unlock, free := locks.tryLock("held"); free {
		unlock()
	} else {
		t.Error("a free key was not taken")
	}
	for key, n := range counters {
		if n != 1600 {
			t.Errorf("key %d: counted to %d, want 1600", key, n)
		}
	}
	if len(locks.held) != 0 {
		t.Errorf("%d locks are left", len(locks.held))
	}
}
