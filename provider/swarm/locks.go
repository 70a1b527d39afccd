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
	if k.held == nil {
		k.held = make(map[string]*keyedLock)
	}
	entry, found := k.held[key]
	if !found {
		entry = &keyedLock{}
		k.held[key] = entry
	}
	entry.users++
	k.mu.Unlock()

	entry.mu.Lock()
	return func() {
		entry.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if entry.users--; entry.users == 0 {
			delete(k.held, key)
		}
	}
}
