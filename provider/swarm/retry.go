package swarm

import (
	"slices"
	"strconv"
	"time"

	"waggle/provider/feed"
)

const (
	// maxRetryAttempts is what a day and a half of retries at the default longest wait come to.
	maxRetryAttempts = 1000
	// maxRepeatWait bounds the pause before a retry.
	maxRepeatWait = 24 * time.Hour
)

// parseRetry reads the annotations about repeating asynchronous calls, nil if there is none.
func parseRetry(annotations map[string]string) (*feed.Retry, error) {
	var r feed.Retry
	said := false
	if text, given := annotations[annotationRetryAttempts]; given {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > maxRetryAttempts {
			return nil, failf(ErrInvalid, "annotation %s: %q; want a whole number from 0 to %d", annotationRetryAttempts, shorten(text), maxRetryAttempts)
		}
		r.Attempts, said = &n, true
	}
	if text, given := annotations[annotationRetryCodes]; given {
		codes, ok := parseCodes(text)
		if !ok {
			return nil, failf(ErrInvalid, "annotation %s: %q; want statuses from 400 to 599, comma separated", annotationRetryCodes, shorten(text))
		}
		r.Codes, said = codes, true
	}
	for _, wait := range []struct {
		key  string
		into **time.Duration
	}{{annotationRetryMinWait, &r.MinWait}, {annotationRetryMaxWait, &r.MaxWait}} {
		text, given := annotations[wait.key]
		if !given {
			continue
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 || d > maxRepeatWait {
			return nil, failf(ErrInvalid, "annotation %s: %q; want a duration such as 30s, from 0s to %s", wait.key, shorten(text), maxRepeatWait)
		}
		*wait.into, said = &d, true
	}
	if r.MinWait != nil && r.MaxWait != nil && *r.MinWait > *r.MaxWait {
		return nil, failf(ErrInvalid, "annotation %s: %s is more than %s, %s", annotationRetryMinWait, *r.MinWait, annotationRetryMaxWait, *r.MaxWait)
	}
	if !said {
		return nil, nil
	}
	return &r, nil
}

// parseCodes reads a list of statuses that say that something went wrong.
func parseCodes(text string) (codes []int, ok bool) {
	for _, part := range splitList(text) {
		code, err := strconv.Atoi(part)
		if err != nil || code < 400 || code > 599 {
			return nil, false
		}
		if !slices.Contains(codes, code) {
			codes = append(codes, code)
		}
	}
	return codes, len(codes) > 0
}
