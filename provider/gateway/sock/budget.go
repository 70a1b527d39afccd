package sock

import "sync/atomic"

// Budget bounds the memory that many connections take together for one purpose, in bytes. It is for concurrent use.
type Budget struct {
	// Most is the bound; it must not be changed once the budget is used.
	Most int64
	used atomic.Int64
}

// Take takes n bytes, which may be negative, and reports false, having taken none, if there is no room for them.
func (b *Budget) Take(n int64) bool {
	if b.used.Add(n) > b.Most && n > 0 {
		b.used.Add(-n)
		return false
	}
	return true
}

// Add takes n bytes whether there is room or not.
func (b *Budget) Add(n int64) { b.used.Add(n) }

// Give gives n bytes back.
func (b *Budget) Give(n int64) { b.used.Add(-n) }

// Used is how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// Full reports whether nothing is left.
func (b *Budget) Full() bool { return b.used.Load() >= b.Most }
