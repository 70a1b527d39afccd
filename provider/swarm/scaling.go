package swarm

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/provider/feed"
)

// scalePrefix begins every label about a function's number of replicas.
const scalePrefix = "com.openfaas.scale."

const (
	labelScaleMin          = scalePrefix + "min"
	labelScaleMax          = scalePrefix + "max"
	labelScaleFactor       = scalePrefix + "factor"
	labelScaleType         = scalePrefix + "type"
	labelScaleTarget       = scalePrefix + "target"
	labelScaleProportion   = scalePrefix + "target-proportion"
	labelScaleZero         = scalePrefix + "zero"
	labelScaleZeroDuration = scalePrefix + "zero-duration"
	labelScaleDownWindow   = scalePrefix + "down.window"
)

var scaleLabels = []string{
	labelScaleMin, labelScaleMax, labelScaleFactor, labelScaleType, labelScaleTarget, labelScaleProportion,
	labelScaleZero, labelScaleZeroDuration, labelScaleDownWindow,
}

// defaultScale is what a function without labels has. A bound that is given moves the other one's default out of its way.
var defaultScale = feed.Scale{
	Min: 1, Max: 20, Factor: 10,
	Type: feed.ScaleRPS, Target: 50, Proportion: 0.9,
	ZeroDuration: 15 * time.Minute, DownWindow: 30 * time.Second,
}

const (
	// maxReplicas bounds what one function may ask for, against typing errors.
	maxReplicas = 10_000
	// maxTarget is far above what one replica can do in any unit.
	maxTarget = 1_000_000
	// minZeroDuration and maxZeroDuration bound how long a function is idle before it sleeps.
	minZeroDuration, maxZeroDuration = time.Second, 168 * time.Hour
	// maxDownWindow is that of OpenFaaS.
	maxDownWindow = 5 * time.Minute
)

// parseScale reads every label com.openfaas.scale.*.
func parseScale(labels given) feed.Scale {
	s := defaultScale
	s.Min = max(labels.whole(labelScaleMin, s.Min, 0, maxReplicas), 1)
	s.Max = labels.whole(labelScaleMax, max(s.Max, s.Min), 1, maxReplicas)
	if s.Min > s.Max {
		labels.illegal(labelScaleMin, labels.values[labelScaleMin], "at most %s, which is %d", labelScaleMax, s.Max)
		s.Max = s.Min
	}
	s.Factor = labels.whole(labelScaleFactor, s.Factor, 0, 100)
	switch t := feed.ScaleType(labels.values[labelScaleType]); t {
	case "":
	case feed.ScaleRPS, feed.ScaleCapacity, feed.ScaleCPU, feed.ScaleQueue:
		s.Type = t
	default:
		labels.illegal(labelScaleType, string(t), "rps, capacity, cpu or queue")
	}
	s.Target = positive(labels, labelScaleTarget, s.Target, maxTarget)
	s.Proportion = positive(labels, labelScaleProportion, s.Proportion, 1)
	s.Zero = labels.boolean(labelScaleZero, false)
	s.ZeroDuration = labels.duration(labelScaleZeroDuration, s.ZeroDuration, minZeroDuration, maxZeroDuration)
	s.DownWindow = labels.duration(labelScaleDownWindow, s.DownWindow, 0, maxDownWindow)
	return s
}

// positive reads a number above 0 and at most most.
func positive(labels given, key string, absent, most float64) float64 {
	text := labels.values[key]
	if text == "" {
		return absent
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0 && n <= most) { // which NaN is not
		labels.illegal(key, text, "a number above 0 and at most %.0f", most)
		return absent
	}
	return n
}

// unknownScaleLabels warns of labels that look like one of these and are none: a misspelt one must not do nothing in silence.
func unknownScaleLabels(labels map[string]string) (warnings []string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if strings.HasPrefix(key, scalePrefix) && !slices.Contains(scaleLabels, key) {
			warnings = append(warnings, fmt.Sprintf("label %s is unknown and does nothing: known are %s", shorten(key), strings.Join(scaleLabels, ", ")))
		}
	}
	return warnings
}
