package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The plot's size in units of SVG: panels are as wide as the drawing without its margins.
const (
	plotWidth, panelHeight = 900.0, 200.0
	marginLeft, marginTop  = 60.0, 40.0
)

// drawn are the contenders in a plot, and how.
var drawn = []struct{ name, colour string }{
	{"OpenFaaS Pro", "#b07aa1"}, {"Kubernetes HPA", "#f28e2b"}, {"Knative KPA, 70 %", "#4e79a7"}, {"Waggle", "#d62728"},
}

// plot draws replicas over time beside the ideal, and below it the requests that wait.
func plot(c curve, results map[string]result) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n",
		plotWidth+marginLeft+20, 2*panelHeight+3*marginTop)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%g" y="20" font-size="15">%s</text>`+"\n", marginLeft, html.EscapeString(c.name))
	ours := results["Waggle"].series
	ready := func(m moment) float64 { return float64(m.ready) }
	waiting := func(m moment) float64 { return math.Log10(1 + float64(m.waiting)) }
	most, longest := 1.0, 1.0
	for _, d := range drawn {
		for _, m := range results[d.name].series {
			most, longest = max(most, ready(m), float64(m.ideal)), max(longest, waiting(m))
		}
	}
	top, bottom := marginTop, 2*marginTop+panelHeight
	axis(&b, top, "ready replicas; grey: the ideal", fmt.Sprintf("%.0f", most))
	axis(&b, bottom, "requests that wait, logarithmic", fmt.Sprintf("%.0f", math.Pow(10, longest)-1))
	line(&b, ours, c.length, top, most, "#bbbbbb", 3, func(m moment) float64 { return float64(m.ideal) })
	for i, d := range drawn {
		series := results[d.name].series
		line(&b, series, c.length, top, most, d.colour, 1.2, ready)
		line(&b, series, c.length, bottom, longest, d.colour, 1.2, waiting)
		fmt.Fprintf(&b, `<text x="%g" y="%g" fill="%s">%s</text>`+"\n", marginLeft+float64(i)*170, bottom+panelHeight+30, d.colour, html.EscapeString(d.name))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func axis(b *bytes.Buffer, top float64, title, most string) {
	fmt.Fprintf(b, `<rect x="%g" y="%g" width="%g" height="%g" fill="none" stroke="#888"/>`+"\n", marginLeft, top, plotWidth, panelHeight)
	fmt.Fprintf(b, `<text x="%g" y="%g">%s</text><text x="%g" y="%g" text-anchor="end">%s</text>`+"\n", marginLeft, top-6, title, marginLeft-6, top+10, most)
}

// line draws one value over time within the panel that begins at top, 0 at its foot and most at its head.
func line(b *bytes.Buffer, series []moment, length, top, most float64, colour string, width float64, of func(moment) float64) {
	fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="%g" points="`, colour, width)
	for _, m := range series {
		fmt.Fprintf(b, "%.1f,%.1f ", marginLeft+plotWidth*m.at/length, top+panelHeight*(1-of(m)/most))
	}
	b.WriteString(`"/>` + "\n")
}
