package swarm

import "sync"

// keyedLocks is a mutex for each key that is in use. The zero value is ready.
type keyedLocks struct {
	mu sync.Mutex
	// held is guarded by mu, and so are its entries' users.
	held map[string]*keyedLock
}

type keyedLock struct {
	mu    sync.Mutex
	users int
}

// lock waits for the key and returns its release.
func (k *keyedLocks) lock(key string) (unlock func()) {
	k.mu.Lock()
	entry, found := k.held[key]
	if !found {
		entry = k.add(key)
	}
	entry.users++
	k.mu.Unlock()
	entry.mu.Lock()
	return func() { k.release(key, entry) }
}

// tryLock takes a key that nobody has or waits for.
func (k *keyedLocks) tryLock(key string) (unlock func(), ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, found := k.held[key]; found {
		return nil, false
	}
	entry := k.add(key)
	entry.users++
	entry.mu.Lock()
	return func() { k.release(key, entry) }, true
}

// add makes the mutex of a key. The caller holds mu.
func (k *keyedLocks) add(key string) *keyedLock {
	if k.held == nil {
		k.held = make(map[string]*keyedLock)
	}
	entry := &keyedLock{}
	k.held[key] = entry
	return entry
}

func (k *keyedLocks) release(key string, entry *keyedLock) {
	entry.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if entry.users--; entry.users == 0 {
		delete(k.held, key)
	}
}
