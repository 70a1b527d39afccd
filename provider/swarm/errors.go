package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// The kinds of failure a caller can branch on with errors.Is. The text of the error that carries one is written for
// the user who sent the request.
var (
	// ErrNotFound means that the function, secret or namespace does not exist, or is not one of ours.
	ErrNotFound = errors.New("not found")
	// ErrExists means that the name to be created is taken.
	ErrExists = errors.New("already exists")
	// ErrInUse means that what should be removed is still needed by something else.
	ErrInUse = errors.New("in use")
	// ErrInvalid means that the request itself is wrong; its text names the field, the value and what is legal.
	ErrInvalid = errors.New("invalid")
	// ErrForbidden means that the operator's allow-list does not hold what was asked for; its text has the list.
	ErrForbidden = errors.New("forbidden")
	// ErrUnavailable means that Docker, or the Swarm's managers, did not answer: the same request may succeed later.
	ErrUnavailable = errors.New("unavailable")
	// ErrUpdating means that a change would take an update under way what it would be rolled back to. It is an
	// ErrUnavailable.
	ErrUpdating = fmt.Errorf("an update is under way: %w", ErrUnavailable)
	// ErrMoved means that a function no longer has the number of replicas that was to be changed.
	ErrMoved = errors.New("changed meanwhile")
)

// failure is an error of one of the kinds above whose text is shown to the user as it is.
type failure struct {
	kind error
	text string
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() error { return f.kind }

func failf(kind error, format string, args ...any) error {
	return &failure{kind: kind, text: fmt.Sprintf(format, args...)}
}

// docker wraps what the engine answered while doing, and gives it a kind where the engine's answer has one. A
// missing object has none here: whether the user's function or, say, the operator's network is missing only the
// caller knows.
func dockerError(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return failf(ErrUnavailable, "%s: Docker does not answer in time", doing)
	case client.IsErrConnectionFailed(err), errdefs.IsUnavailable(err), noLeader(err):
		return failf(ErrUnavailable, "%s: Docker does not answer: %s", doing, withoutSocket(err))
	case errdefs.IsInvalidArgument(err) && !outOfSequence(err):
		return failf(ErrInvalid, "%s: %s", doing, daemonText(err))
	}
	var request *url.Error
	if errors.As(err, &request) {
		return fmt.Errorf("%s: %w", doing, request.Err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// withoutSocket is why a call did not reach the engine: where its socket is, is nobody's affair but the operator's.
func withoutSocket(err error) string {
	var dial *net.OpError
	if errors.As(err, &dial) {
		return dial.Err.Error()
	}
	if client.IsErrConnectionFailed(err) {
		return "its socket cannot be reached"
	}
	return daemonText(err)
}

// noLeader is true for the managers' answers while they have no leader: a matter of seconds, or of a lost quorum.
func noLeader(err error) bool {
	text := err.Error()
	return strings.Contains(text, "does not have a leader") || strings.Contains(text, "no elected primary") ||
		strings.Contains(text, "code = DeadlineExceeded") || strings.Contains(text, "code = Unavailable")
}

// outOfSequence is true when somebody else changed the object between our read and our write. Engines give it as
// status 500 or 409 depending on their age, so that the text is the only stable mark.
func outOfSequence(err error) bool {
	return strings.Contains(err.Error(), "update out of sequence")
}

// daemonText is the engine's sentence without the envelopes of its client and its RPC layer.
func daemonText(err error) string {
	text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
	if _, after, found := strings.Cut(text, " desc = "); found && strings.HasPrefix(text, "rpc error") {
		return after
	}
	return text
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }
