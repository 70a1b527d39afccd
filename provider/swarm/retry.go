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
func parseRetry(annotations given) *feed.Retry {
	var r feed.Retry
	if annotations.values[annotationRetryAttempts] != "" {
		r.Attempts = new(int(annotations.whole(annotationRetryAttempts, 0, 0, maxRetryAttempts)))
	}
	if text := annotations.values[annotationRetryCodes]; text != "" {
		codes, ok := parseCodes(text)
		if !ok {
			annotations.illegal(annotationRetryCodes, text, "statuses from 400 to 599, comma separated")
		}
		r.Codes = codes
	}
	if annotations.values[annotationRetryMinWait] != "" {
		r.MinWait = new(annotations.duration(annotationRetryMinWait, 0, 0, maxRepeatWait))
	}
	if annotations.values[annotationRetryMaxWait] != "" {
		r.MaxWait = new(annotations.duration(annotationRetryMaxWait, maxRepeatWait, 0, maxRepeatWait))
	}
	if r.MinWait != nil && r.MaxWait != nil && *r.MinWait > *r.MaxWait {
		annotations.illegal(annotationRetryMinWait, annotations.values[annotationRetryMinWait], "at most %s, which is %s", annotationRetryMaxWait, *r.MaxWait)
		r.MinWait = r.MaxWait
	}
	if r.Attempts == nil && r.Codes == nil && r.MinWait == nil && r.MaxWait == nil {
		return nil
	}
	return &r
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
