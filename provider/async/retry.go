package async

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"waggle/provider/feed"
)

// policy is how failures of one function are repeated.
type policy struct {
	attempts         int
	codes            []int
	minWait, maxWait time.Duration
}

// policyOf is the settings', with the function's own in their place.
func (c *Config) policyOf(own *feed.Retry) policy {
	p := policy{attempts: c.MaxRetryAttempts, codes: c.RetryCodes, minWait: c.InitialRetryWait, maxWait: c.MaxRetryWait}
	if own == nil {
		return p
	}
	if own.Attempts != nil {
		p.attempts = *own.Attempts
	}
	if len(own.Codes) > 0 {
		p.codes = own.Codes
	}
	if own.MaxWait != nil {
		p.maxWait = *own.MaxWait
		p.minWait = min(p.minWait, p.maxWait)
	}
	if own.MinWait != nil {
		p.minWait = *own.MinWait
		p.maxWait = max(p.maxWait, p.minWait)
	}
	return p
}

// answer is what became of one attempt.
type answer struct {
	status int
	header http.Header
	body   []byte
	took   time.Duration
	// omitted: the body was longer than is kept.
	omitted bool
	// err: there is no whole answer.
	err error
}

// verdict is what follows from an answer.
type verdict struct {
	again bool
	wait  time.Duration // before the next attempt
	// failed is why there is none; empty: the call has succeeded.
	failed string
}

// judge decides, after tries failures, about another answer. random gives a duration from 0 to below n.
func (p policy) judge(a *answer, tries int, now time.Time, random func(n time.Duration) time.Duration) verdict {
	internal := a.internal() && a.status >= 400 // a function may pass another one's good answer on, header and all
	if a.err == nil && !internal && !slices.Contains(p.codes, a.status) {
		return verdict{}
	}
	if tries >= p.attempts {
		return verdict{failed: fmt.Sprintf("%s after %d retries", a.outcome(), tries)}
	}
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
		if asked, ok := firstRetryAfter(a.header.Values("Retry-After"), now); ok {
			// A part of the system says when it is worth asking again at the soonest; it knows nothing of the others that it told so.
			least := p.minWait
			if internal {
				least = p.backoff(tries+1, random)
			}
			return verdict{again: true, wait: min(max(asked, least), p.maxWait)}
		}
	}
	return verdict{again: true, wait: p.backoff(tries+1, random)}
}

// internal reports whether a part of the system answered, and not the function.
func (a *answer) internal() bool { return a.header.Get("X-OpenFaaS-Internal") != "" }

func (a *answer) outcome() string {
	if a.err != nil {
		return a.err.Error()
	}
	return "status " + strconv.Itoa(a.status)
}

// backoff is the pause before the nth retry: anything, with equal chance, between the shortest pause and that doubled n
// times (or the longest one). The spread keeps calls that failed together from coming back together.
func (p policy) backoff(n int, random func(time.Duration) time.Duration) time.Duration {
	top := p.minWait
	for range n {
		if top > p.maxWait/2 {
			top = p.maxWait
			break
		}
		top *= 2
	}
	return p.minWait + random(max(top-p.minWait, 0)+1)
}

// firstRetryAfter is the first value that can be read.
func firstRetryAfter(values []string, now time.Time) (wait time.Duration, ok bool) {
	for _, value := range values {
		if wait, ok = retryAfter(value, now); ok {
			return wait, true
		}
	}
	return 0, false
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds, or a date. ok is false for anything else.
func retryAfter(text string, now time.Time) (wait time.Duration, ok bool) {
	text = strings.TrimSpace(text)
	// Of a number that is too large, ParseUint gives the largest: a century, and shorter than the longest Duration.
	if seconds, err := strconv.ParseUint(text, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return max(at.Sub(now), 0), true
}
