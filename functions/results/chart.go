package results

import (
	"fmt"
	"html/template"
	"strings"
	"time"
)

// Chart is a poll's turnout as a picture: one column per minute, the highest as high as the picture.
type Chart struct {
	Path     string // of an SVG of Columns by 100
	Columns  int
	From, To string // clock times
	Most     int64
	MostAt   string
}

const clock = "15:04"

// Chart draws the turnout of the poll; nil without any. The width is the time from the first voter shown until now.
func (s scene) Chart() *Chart {
	minutes := s.Poll.Turnout
	if len(minutes) == 0 || s.Poll.Total == nil {
		return nil
	}
	first, last := minutes[0].Minute, minutes[len(minutes)-1].Minute
	if end := s.Poll.end(s.R.now); end.After(last) {
		last = end
	}
	c := &Chart{Columns: int(last.Sub(first)/time.Minute) + 1, From: first.Format(clock), To: last.Format(clock)}
	for _, m := range minutes {
		if m.Voters > c.Most {
			c.Most, c.MostAt = m.Voters, m.Minute.Format(clock)
		}
	}
	if c.Most == 0 {
		return nil
	}
	var path strings.Builder
	for _, m := range minutes {
		// Whoever came is seen: at least a hundredth of the height.
		height := max(1, 100*m.Voters/c.Most)
		fmt.Fprintf(&path, "M%d 100v-%dh1v%dz", int(m.Minute.Sub(first)/time.Minute), height, height)
	}
	c.Path = path.String()
	return c
}

// end is the last minute in which the poll can have voters at now.
func (p *pollReport) end(now time.Time) time.Time {
	q := poll{Closes: p.Closes}
	return q.turnoutEnd(now).UTC()
}

// Width is the length of an option's bar, in percent of the whole. It is an attribute and no style, which the policy
// would refuse.
func (s scene) Width(o optionReport) template.HTMLAttr {
	width := 0.0
	if *s.Poll.Total > 0 {
		width = 100 * float64(*o.Votes) / float64(*s.Poll.Total)
	}
	return template.HTMLAttr(fmt.Sprintf(`width="%.2f%%"`, width)) //nolint:gosec // a number
}
