package swarm

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
)

func TestParseScale(t *testing.T) {
	t.Parallel()
	with := func(change func(*feed.Scale)) feed.Scale {
		s := defaultScale
		change(&s)
		return s
	}
	for name, test := range map[string]struct {
		labels map[string]string
		want   feed.Scale
	}{
		"nothing said":            {want: feed.Scale{Min: 1, Max: 20, Factor: 10, Type: "rps", Target: 50, Proportion: 0.9, ZeroDuration: 15 * time.Minute, DownWindow: 30 * time.Second}},
		"empty values":            {labels: map[string]string{labelScaleMin: "", labelScaleType: "", labelScaleTarget: "", labelScaleZero: "", labelScaleDownWindow: ""}, want: defaultScale},
		"bounds":                  {labels: map[string]string{labelScaleMin: "2", labelScaleMax: "5"}, want: with(func(s *feed.Scale) { s.Min, s.Max = 2, 5 })},
		"a lower bound above 20":  {labels: map[string]string{labelScaleMin: "30"}, want: with(func(s *feed.Scale) { s.Min, s.Max = 30, 30 })},
		"a lower bound of zero":   {labels: map[string]string{labelScaleMin: "0"}, want: defaultScale},
		"the largest of all":      {labels: map[string]string{labelScaleMin: "10000", labelScaleFactor: "100", labelScaleTarget: "1000000", labelScaleProportion: "1", labelScaleZeroDuration: "168h", labelScaleDownWindow: "5m"}, want: feed.Scale{Min: 10000, Max: 10000, Factor: 100, Type: "rps", Target: 1e6, Proportion: 1, ZeroDuration: 168 * time.Hour, DownWindow: 5 * time.Minute}},
		"the smallest of all":     {labels: map[string]string{labelScaleMax: "1", labelScaleFactor: "0", labelScaleTarget: "0.001", labelScaleProportion: "0.01", labelScaleZeroDuration: "1s", labelScaleDownWindow: "0s"}, want: feed.Scale{Min: 1, Max: 1, Type: "rps", Target: 0.001, Proportion: 0.01, ZeroDuration: time.Second}},
		"a kind and sleep":        {labels: map[string]string{labelScaleType: "capacity", labelScaleTarget: "7.5", labelScaleZero: "true"}, want: with(func(s *feed.Scale) { s.Type, s.Target, s.Zero = "capacity", 7.5, true })},
		"somebody else's label":   {labels: map[string]string{"com.openfaas.scaled": "x"}, want: defaultScale},
		"a label that is unknown": {labels: map[string]string{scalePrefix + "mim": "x"}, want: defaultScale},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := parseOptions(&types.FunctionDeployment{Labels: &test.labels})
			if err != nil || o.scale != test.want {
				t.Errorf("got %+v, %v\nwant %+v", o.scale, err, test.want)
			}
		})
	}
}

// illegalScales are values that each label refuses, with what the refusal says is legal.
var illegalScales = map[string]struct {
	values []string
	legal  string
}{
	labelScaleMin:          {[]string{"-1", "abc", "1.5", "10001", "21x", "99999999999999999999"}, "must be a whole number from 0 to 10000"},
	labelScaleMax:          {[]string{"0", "five", "-5", "10001"}, "must be a whole number from 1 to 10000"},
	labelScaleFactor:       {[]string{"-1", "101", "20%", "0.5"}, "must be a whole number from 0 to 100"},
	labelScaleType:         {[]string{"RPS", "latency", "rps,cpu", " rps"}, "must be rps, capacity, cpu or queue"},
	labelScaleTarget:       {[]string{"0", "-3", "NaN", "Inf", "-Inf", "many", "1000001", "1e999"}, "must be a number above 0 and at most 1000000"},
	labelScaleProportion:   {[]string{"0", "90", "90%", "NaN", "1.01", "-0.5"}, "must be a number above 0 and at most 1"},
	labelScaleZero:         {[]string{"yes", "1", "True", "on"}, "must be true or false"},
	labelScaleZeroDuration: {[]string{"15", "0s", "1d", "169h", "999ms"}, "must be a duration such as 90s, from 1s to 168h0m0s"},
	labelScaleDownWindow:   {[]string{"30", "6m", "-1s", "5m1s"}, "must be a duration such as 90s, from 0s to 5m0s"},
}

func TestIllegalScaleIsRefused(t *testing.T) {
	t.Parallel()
	for label, illegal := range illegalScales {
		for _, value := range illegal.values {
			o, err := parseOptions(&types.FunctionDeployment{Labels: &map[string]string{label: value}})
			if want := "label " + label + ` is "` + value + `": ` + illegal.legal; !errors.Is(err, ErrInvalid) || err.Error() != want {
				t.Errorf("%s=%s: %v\nwant %s", label, value, err, want)
			}
			if o.scale != defaultScale {
				t.Errorf("%s=%s: is read as %+v, want the defaults", label, value, o.scale)
			}
		}
	}
	_, err := parseOptions(&types.FunctionDeployment{Labels: &map[string]string{labelScaleMin: "6", labelScaleMax: "5", labelScaleZero: "x"}})
	if want := `label ` + labelScaleMin + ` is "6": must be at most ` + labelScaleMax + `, which is 5; label ` + labelScaleZero + ` is "x": must be true or false`; err == nil || err.Error() != want {
		t.Errorf("two mistakes: %v\nwant %s", err, want)
	}
}

func TestUnknownScaleLabelsAreNamed(t *testing.T) {
	t.Parallel()
	got := Warnings(types.FunctionDeployment{Labels: &map[string]string{scalePrefix + "mim": "2", labelScaleMax: "2", scalePrefix + "Zero": "true", "topic": "x"}})
	if len(got) != 2 || !strings.Contains(got[0], scalePrefix+"Zero is unknown") || !strings.Contains(got[1], scalePrefix+"mim is unknown") || !strings.Contains(got[1], labelScaleMin) {
		t.Errorf("got %q", got)
	}
	if got := Warnings(types.FunctionDeployment{}); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}

// FuzzScale: any text is a legal scale or an error that names it.
func FuzzScale(f *testing.F) {
	for label, illegal := range illegalScales {
		for _, value := range illegal.values {
			f.Add(label, value, "")
		}
	}
	f.Add(labelScaleMin, "7", "7")
	f.Fuzz(func(t *testing.T, label, value, most string) {
		o, err := parseOptions(&types.FunctionDeployment{Labels: &map[string]string{label: value, labelScaleMax: most}})
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s=%q: %v", label, value, err)
		}
		s := o.scale
		if s.Min < 1 || s.Min > s.Max || s.Max > maxReplicas || s.Factor > 100 || !(s.Target > 0 && s.Target <= maxTarget) || !(s.Proportion > 0 && s.Proportion <= 1) ||
			math.IsNaN(s.Share()) || s.ZeroDuration < minZeroDuration || s.ZeroDuration > maxZeroDuration || s.DownWindow < 0 || s.DownWindow > maxDownWindow || s.Type == "" {
			t.Errorf("%s=%q, max=%q: %+v", label, value, most, s)
		}
	})
}
