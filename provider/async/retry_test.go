package async

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waggle/provider/feed"
)

// most is the longest pause that chance could give.
func most(n time.Duration) time.Duration { return n - 1 }

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := policy{attempts: 3, codes: []int{429, 500, 503}, minWait: 10 * time.Second, maxWait: time.Minute}
	after := func(value string) http.Header { return http.Header{"Retry-After": {value}} }
	for name, tc := range map[string]struct {
		a     answer
		tries int
		want  verdict
	}{
		"success":                  {answer{status: 200}, 0, verdict{}},
		"caller's mistake":         {answer{status: 400}, 0, verdict{}},
		"listed code":              {answer{status: 500}, 0, verdict{again: true, wait: 20 * time.Second}},
		"second failure":           {answer{status: 500}, 1, verdict{again: true, wait: 40 * time.Second}},
		"third failure":            {answer{status: 500}, 2, verdict{again: true, wait: time.Minute}},
		"attempts used up":         {answer{status: 500}, 3, verdict{failed: "status 500 after 3 retries"}},
		"no answer":                {answer{err: errors.New("no answer: EOF")}, 3, verdict{failed: "no answer: EOF after 3 retries"}},
		"a part of the system":     {answer{status: 404, header: http.Header{"X-Openfaas-Internal": {"gateway"}}}, 0, verdict{again: true, wait: 20 * time.Second}},
		"its good answer, passed":  {answer{status: 200, header: http.Header{"X-Openfaas-Internal": {"gateway"}}}, 0, verdict{}},
		"the first that is valid":  {answer{status: 503, header: http.Header{"Retry-After": {"soon", "50", "90"}}}, 0, verdict{again: true, wait: 50 * time.Second}},
		"a part says so each time": {answer{status: 503, header: http.Header{"X-Openfaas-Internal": {"gateway"}, "Retry-After": {"1"}}}, 1, verdict{again: true, wait: 40 * time.Second}},
		"a part wants more time":   {answer{status: 503, header: http.Header{"X-Openfaas-Internal": {"gateway"}, "Retry-After": {"50"}}}, 0, verdict{again: true, wait: 50 * time.Second}},
		"asked to wait":            {answer{status: 503, header: after("30")}, 0, verdict{again: true, wait: 30 * time.Second}},
		"asked to wait until":      {answer{status: 429, header: after("Fri, 02 Jan 2026 03:04:45 GMT")}, 0, verdict{again: true, wait: 40 * time.Second}},
		"asked to come at once":    {answer{status: 503, header: after("0")}, 0, verdict{again: true, wait: 10 * time.Second}},
		"asked to come in past":    {answer{status: 503, header: after("Thu, 01 Jan 2026 00:00:00 GMT")}, 0, verdict{again: true, wait: 10 * time.Second}},
		"asked to wait too long":   {answer{status: 429, header: after("86400")}, 0, verdict{again: true, wait: time.Minute}},
		"asked to wait for ever":   {answer{status: 429, header: after("99999999999999999999")}, 0, verdict{again: true, wait: time.Minute}},
		"asked for less than none": {answer{status: 429, header: after("-5")}, 0, verdict{again: true, wait: 20 * time.Second}},
		"asked nonsense":           {answer{status: 503, header: after("soon")}, 0, verdict{again: true, wait: 20 * time.Second}},
		"asked with another":       {answer{status: 500, header: after("30")}, 0, verdict{again: true, wait: 20 * time.Second}},
	} {
		if got := p.judge(&tc.a, tc.tries, now, most); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestPolicyOfAFunction(t *testing.T) {
	t.Parallel()
	c := Config{MaxRetryAttempts: 10, InitialRetryWait: 10 * time.Second, MaxRetryWait: 2 * time.Minute, RetryCodes: []int{500}}
	for name, tc := range map[string]struct {
		own                *feed.Retry
		attempts           int
		minWait, maxWait   time.Duration
		repeats500, repeat int
	}{
		"none":               {nil, 10, 10 * time.Second, 2 * time.Minute, 1, 0},
		"never":              {&feed.Retry{Attempts: new(0)}, 0, 10 * time.Second, 2 * time.Minute, 1, 0},
		"codes":              {&feed.Retry{Codes: []int{418}}, 10, 10 * time.Second, 2 * time.Minute, 0, 418},
		"short longest wait": {&feed.Retry{MaxWait: new(time.Second)}, 10, time.Second, time.Second, 1, 0},
		"long shortest wait": {&feed.Retry{MinWait: new(time.Hour)}, 10, time.Hour, time.Hour, 1, 0},
		"both waits":         {&feed.Retry{MinWait: new(time.Duration(0)), MaxWait: new(time.Minute)}, 10, 0, time.Minute, 1, 0},
	} {
		p := c.policyOf(tc.own)
		again := p.judge(&answer{status: 500}, 0, time.Now(), most)
		if p.attempts != tc.attempts || p.minWait != tc.minWait || p.maxWait != tc.maxWait || (tc.attempts > 0 && again.again) != (tc.attempts > 0 && tc.repeats500 == 1) {
			t.Errorf("%s: %+v", name, p)
		}
		if tc.repeat > 0 && !p.judge(&answer{status: tc.repeat}, 0, time.Now(), most).again {
			t.Errorf("%s: %d is not repeated", name, tc.repeat)
		}
	}
}

// Whatever the settings, a pause stays within them, and the longest possible one never shrinks.
func TestBackoffStaysWithinItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := policy{minWait: time.Duration(rapid.Int64Range(0, int64(maxWait)).Draw(rt, "min"))}
		p.maxWait = time.Duration(rapid.Int64Range(int64(p.minWait), int64(maxWait)).Draw(rt, "max"))
		share := rapid.Float64Range(0, 0.999).Draw(rt, "chance")
		last := time.Duration(0)
		for n := 1; n < 70; n++ {
			wait := p.backoff(n, func(n time.Duration) time.Duration { return time.Duration(share * float64(n)) })
			top := p.backoff(n, most)
			if wait < p.minWait || wait > p.maxWait || top < last || top > p.maxWait {
				rt.Fatalf("retry %d waits %s of at most %s (before: %s), bounds %s and %s", n, wait, top, last, p.minWait, p.maxWait)
			}
			last = top
		}
		if p.minWait > 0 && last != p.maxWait {
			rt.Fatalf("the longest wait is %s, want %s", last, p.maxWait)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", " 5 ", "-1", "1.5", "99999999999", "Fri, 02 Jan 2026 03:04:45 GMT", "Friday, 02-Jan-26 03:04:45 GMT", "soon"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		wait, ok := retryAfter(text, now)
		if wait < 0 || !ok && wait != 0 {
			t.Errorf("%q: %s %v", text, wait, ok)
		}
		p := policy{attempts: 1, minWait: time.Second, maxWait: time.Minute}
		v := p.judge(&answer{status: 503, header: http.Header{"Retry-After": {text}, "X-Openfaas-Internal": {"x"}}}, 0, now, most)
		if !v.again || v.wait < p.minWait || v.wait > p.maxWait {
			t.Errorf("%q: %+v", text, v)
		}
	})
}

// FuzzCallback: what passes is an address that a request can be made of, to a host, and not to this machine.
func FuzzCallback(f *testing.F) {
	for _, s := range []string{"http://h/x?y#z", "https://u:p@h:8443", "http://127.0.0.1", "http://[::1]:80/", "//h", "http:h", "HTTP://H", "http://h:port", "http://0x7f.1/", "http://%41/"} {
		f.Add(s)
	}
	q := &Queue{guard: &guard{own: ownNetworks}}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := q.parseCallback(text)
		if err != nil {
			if u != nil || !strings.HasPrefix(err.Error(), "X-Callback-Url: ") {
				t.Errorf("%q: %v %v", text, u, err)
			}
			return
		}
		request, err := http.NewRequest(http.MethodPost, u.String(), nil)
		if err != nil || request.URL.Hostname() == "" || request.URL.Hostname() == "127.0.0.1" || len(text) > maxCallback {
			t.Errorf("%q passes: %v", text, err)
		}
	})
}
