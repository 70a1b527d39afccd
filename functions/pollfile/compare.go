package pollfile

import (
	"fmt"
	"slices"
	"time"
)

// Change is what an edit of the poll file does to one poll.
type Change struct {
	Poll, What string
	// Falsifies says why the edit must not be made, or is empty.
	Falsifies string
}

// Compare lists what changes between two poll files at a moment. A poll that has opened may have votes: an edit that would
// give them another meaning falsifies it.
func Compare(before, after []Poll, now time.Time) []Change {
	var c comparison
	for i := range after {
		b := &after[i]
		k := slices.IndexFunc(before, func(a Poll) bool { return a.ID == b.ID })
		if k < 0 {
			c.note(b.Slug, "is new, "+b.state(now))
			continue
		}
		c.poll(&before[k], b, now)
	}
	for i := range before {
		a := &before[i]
		if slices.ContainsFunc(after, func(b Poll) bool { return b.ID == a.ID }) {
			continue
		}
		if a.state(now) == "open" {
			c.refuse(a.Slug, "is removed", "it is open: close it first, with closes")
		} else {
			c.note(a.Slug, "is removed; its votes stay in Postgres")
		}
	}
	return c.changes
}

type comparison struct{ changes []Change }

func (c *comparison) note(poll, what string) { c.refuse(poll, what, "") }

func (c *comparison) refuse(poll, what, why string) {
	c.changes = append(c.changes, Change{Poll: poll, What: what, Falsifies: why})
}

// changed notes a difference that falsifies nothing; votes tells whether there may be votes.
func (c *comparison) changed(poll, field string, before, after any) {
	if before != after {
		c.note(poll, fmt.Sprintf("%s: %v becomes %v", field, before, after))
	}
}

func (c *comparison) poll(a, b *Poll, now time.Time) {
	state := a.state(now)
	fixed := func(field string, before, after any, why string) {
		if before == after {
			return
		}
		if state == "waiting" {
			why = ""
		}
		c.refuse(b.Slug, fmt.Sprintf("%s: %v becomes %v", field, before, after), why)
	}
	fixed("mode", a.Mode, b.Mode, "it has opened: other votes of the same voters would count")
	fixed("may_change", a.MayChange, b.MayChange, "it has opened: other votes of the same voters would count")
	if a.SSO != nil && b.SSO != nil {
		fixed("sso.issuer", a.SSO.Issuer, b.SSO.Issuer, "it has opened: its voters would become others, and could vote again")
	}
	if b.Opens.After(now) {
		fixed("opens", a.Opens, b.Opens, "it has opened: votes from before opens would stay counted")
	} else {
		c.changed(b.Slug, "opens", a.Opens, b.Opens)
	}
	if state == "closed" && b.state(now) == "open" {
		c.refuse(b.Slug, fmt.Sprintf("closes: %v becomes %v", a.Closes, b.Closes), "it has closed: its result may be known")
	} else {
		c.changed(b.Slug, "closes", a.Closes, b.Closes)
	}
	c.changed(b.Slug, "slug", a.Slug, b.Slug)
	c.changed(b.Slug, "question (its meaning must stay)", a.Question, b.Question)
	c.changed(b.Slug, "results", a.Results, b.Results)
	c.options(a, b, state != "waiting")
}

// options compares them by id, which is what votes are stored with.
func (c *comparison) options(a, b *Poll, votes bool) {
	why := func(text string) string {
		if !votes {
			return ""
		}
		return text
	}
	for _, o := range a.Options {
		k := slices.IndexFunc(b.Options, func(n Option) bool { return n.ID == o.ID })
		if k < 0 {
			c.refuse(b.Slug, fmt.Sprintf("option %d, %s, is removed", o.ID, o.Slug), why("it has opened: votes for the option would be dropped"))
			continue
		}
		n := b.Options[k]
		if n.Slug != o.Slug {
			c.refuse(b.Slug, fmt.Sprintf("option %d: %s becomes %s", o.ID, o.Slug, n.Slug), why("it has opened: votes for the one would count for the other"))
			continue
		}
		if n.Name == o.Name {
			continue
		}
		what := fmt.Sprintf("option %s: name (its meaning must stay): %s becomes %s", o.Slug, o.Name, n.Name)
		if slices.ContainsFunc(a.Options, func(other Option) bool { return other.ID != o.ID && other.Name == n.Name }) {
			c.refuse(b.Slug, what, why("it has opened, and another option had that name"))
		} else {
			c.note(b.Slug, what)
		}
	}
	for _, n := range b.Options {
		if !slices.ContainsFunc(a.Options, func(o Option) bool { return o.ID == n.ID }) {
			c.note(b.Slug, fmt.Sprintf("option %d, %s, is new", n.ID, n.Slug))
		}
	}
}
