package async

import (
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

var (
	// errStopping is why attempts are cut at shutdown: the call stays due, and the attempt does not count.
	errStopping = errors.New("the gateway is stopping")
	// errCancelled is why an attempt ends when its call is cancelled.
	errCancelled = errors.New("the call was cancelled")
	// errRemoved is why a call fails whose function was removed.
	errRemoved = errors.New("the function was removed")
)

// refusal is an error with the status that a client is told.
type refusal struct {
	status int
	reason string
}

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.reason }

// HTTPStatus is what the gateway asks for.
func (r *refusal) HTTPStatus() int { return r.status }

// storeRefusal says what a failed write means to a client: what is known of the outcome, without addresses.
func storeRefusal(err error) *refusal {
	switch {
	case redis.IsOOMError(err):
		return refuse(429, "the queue is full: its Redis has no memory left: maxmemory (make up QUEUE_MAXMEMORY=…)")
	case notStored(err), answered(err):
		return refuse(503, "the queue cannot be reached; nothing was changed")
	}
	return refuse(503, "the queue did not confirm in time; it may have been changed all the same")
}
