package results

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// view is one count in every form it is asked for. Each form is rendered once, when somebody first asks; what is not asked
// for costs nothing. It is safe for concurrent use.
type view struct {
	report  report
	links   links
	newer   chan struct{} // closed when a newer view is there
	content string        // names what the report says, whatever the time

	// mu guards what follows.
	mu       sync.Mutex
	before   *view // the view that this one replaced, until the next one comes; for what changed since
	rendered map[variant][]byte
	parts    map[variant][]part
}

// links are where the pages lead; each may be empty.
type links struct{ vote string }

// variant is a form of a view. Poll is the slug of the only poll, or "" for all of them.
type variant struct {
	format format
	lang   *language
	poll   string
	sheet  bool   // the announcer's sheet
	still  bool   // a page that does not renew itself
	asked  string // the language that the address names, for the page's links
}

type format string

const (
	formatHTML   format = "html"
	formatJSON   format = "json"
	formatCSV    format = "csv"
	formatEvents format = "events"
)

func newView(r report, l links, before *view) (*view, error) {
	content, err := contentOf(r)
	return &view{report: r, links: l, before: before, newer: make(chan struct{}), content: content,
		rendered: map[variant][]byte{}, parts: map[variant][]part{}}, err
}

// contentOf is the same for reports that differ only in when they were read.
func contentOf(r report) (string, error) {
	r.Ledger.AsOf = time.Time{}
	r.Ledger.Streams = append([]stream(nil), r.Ledger.Streams...)
	for i := range r.Ledger.Streams {
		r.Ledger.Streams[i].SeenAt = time.Time{}
	}
	r.Ledger.Checks = append([]check(nil), r.Ledger.Checks...)
	for i := range r.Ledger.Checks {
		r.Ledger.Checks[i].CheckedAt = time.Time{}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encoding the results: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// etag is weak: it stays while only the time of reading changes.
func (v *view) etag(form variant) string {
	return fmt.Sprintf(`W/"%s-%s"`, v.content, form.format)
}

// render returns the view in one form; the caller must not change it.
func (v *view) render(form variant) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if done, ok := v.rendered[form]; ok {
		return done, nil
	}
	done, err := v.make(form)
	if err == nil {
		v.rendered[form] = done
	}
	return done, err
}

func (v *view) make(form variant) ([]byte, error) {
	r := v.report
	if form.poll != "" {
		r = r.only(form.poll)
	}
	var out bytes.Buffer
	switch form.format {
	case formatJSON:
		if err := json.NewEncoder(&out).Encode(r); err != nil {
			return nil, fmt.Errorf("encoding the results: %w", err)
		}
	case formatCSV:
		if err := writeCSV(&out, r); err != nil {
			return nil, err
		}
	default:
		parts, err := v.partsOf(form, r)
		if err != nil {
			return nil, err
		}
		if err := writePage(&out, form, r, parts, v.links); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// partsOf needs the lock.
func (v *view) partsOf(form variant, r report) ([]part, error) {
	form.still, form.format = false, formatHTML // they are the same
	if done, ok := v.parts[form]; ok {
		return done, nil
	}
	done, err := renderParts(form, r)
	if err == nil {
		v.parts[form] = done
	}
	return done, err
}

// changes returns, as JSON, the parts of a page that differ from those of the view before. It returns all of them if
// last is not that view.
func (v *view) changes(form variant, last *view) ([]byte, error) {
	var known []part
	if last != nil && v.follows(last) {
		known = last.known(form)
	}
	form.still = known == nil // keeps the two apart among what is rendered
	v.mu.Lock()
	defer v.mu.Unlock()
	if done, ok := v.rendered[form]; ok {
		return done, nil
	}
	r := v.report
	if form.poll != "" {
		r = r.only(form.poll)
	}
	parts, err := v.partsOf(form, r)
	if err != nil {
		return nil, err
	}
	changed := map[string]string{}
	for _, p := range parts {
		if !slices.Contains(known, p) {
			changed[p.ID] = p.HTML
		}
	}
	done, err := json.Marshal(changed)
	if err != nil {
		return nil, fmt.Errorf("encoding what changed: %w", err)
	}
	v.rendered[form] = done
	return done, nil
}

func (v *view) follows(last *view) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.before == last
}

// known returns the parts of a page if they were rendered.
func (v *view) known(form variant) []part {
	v.mu.Lock()
	defer v.mu.Unlock()
	form.still, form.format = false, formatHTML
	return v.parts[form]
}

// release forgets the view before, which nobody needs once there is a newer one than this.
func (v *view) release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.before = nil
}
