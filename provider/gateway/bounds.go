package gateway

import (
	"errors"
	"fmt"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/upstream"
)

// What clients are told when a bound refuses them. Each text says what is legal and which setting says so, since its
// reader may be able to change that. Bounds without a setting have their number alone. (504 is in forward.go, because
// a function's own settings have a part in it.)

func (c *Config) headTooLong() string {
	return fmt.Sprintf("request head is too long: legal are %d bytes, the gateway's max_header_bytes", c.MaxHeader)
}

func (c *Config) asyncHeadTooLong() string {
	return fmt.Sprintf("request head is too long for an asynchronous call: with what the gateway adds to it, legal are %d fields and %d bytes, the gateway's max_header_bytes",
		http1.MaxFields, c.MaxHeader)
}

// malformed is the reason for a head or a body that the parser refused.
func (c *Config) malformed(err *http1.Error) string {
	if err.Status == 414 {
		return fmt.Sprintf("%s: legal are %d bytes, the gateway's max_uri_bytes", err.Reason, c.MaxURI)
	}
	return err.Reason
}

func (c *Config) headTooLate() string {
	return fmt.Sprintf("request head did not arrive within %s, the gateway's header_timeout", c.HeaderTimeout)
}

func (c *Config) bodyTooLong() string {
	return fmt.Sprintf("request body is too long: legal are %d bytes, the gateway's max_body_bytes", c.MaxBody)
}

// bodyTooLate is about a body that is passed on as it comes.
func (c *Config) bodyTooLate() string {
	return fmt.Sprintf("nothing of the request body came for %s, the gateway's read_timeout", c.ReadTimeout)
}

// keptBodyTooLate is about a body that is kept until it is whole, see patience.
func (c *Config) keptBodyTooLate() string {
	return fmt.Sprintf("request body did not arrive in time: legal is silence for %s, the gateway's read_timeout, and beyond the first %s at least %d bytes a second",
		c.ReadTimeout, c.ReadTimeout, slowest)
}

// mostAsync is the longest legal body of an asynchronous call, and asyncTooLong the reason for a longer one.
func (c *Config) mostAsync() int64 {
	if c.MaxBody > 0 {
		return min(c.MaxAsyncBody, c.MaxBody)
	}
	return c.MaxAsyncBody
}

func (c *Config) asyncTooLong() string {
	setting := "async_max_body_bytes"
	if c.mostAsync() < c.MaxAsyncBody {
		setting = "max_body_bytes"
	}
	return fmt.Sprintf("body of an asynchronous call is too long: legal are %d bytes, the gateway's %s", c.mostAsync(), setting)
}

func (c *Config) tooManyRequests() string {
	return fmt.Sprintf("too many requests from this network: legal are %g a second, the gateway's rate_limit, and %d at once, its rate_burst", c.RateLimit, c.RateBurst)
}

func (c *Config) tooManyConns() string {
	return fmt.Sprintf("too many connections: legal are %d, the gateway's max_connections", c.MaxConns)
}

func (c *Config) tooManyConnsPerIP() string {
	return fmt.Sprintf("too many connections from this address: legal are %d, the gateway's max_connections_per_ip", c.MaxConnsPerIP)
}

// unserved is the reason for a request that has got no replica.
func (c *Config) unserved(err error) string {
	switch {
	case errors.Is(err, upstream.ErrQueueFull), errors.Is(err, errManySearches):
		return fmt.Sprintf("%s: legal are %d, the gateway's max_held_per_function", err, c.MaxHeld)
	case errors.Is(err, upstream.ErrBusy):
		return fmt.Sprintf("%s (max_inflight): none had room%s", err, c.waited())
	case errors.Is(err, upstream.ErrNotReady), errors.Is(err, errNotListed):
		return err.Error() + c.waited()
	case errors.Is(err, errNoTable):
		return fmt.Sprintf("%s; a request waits for one %s at most, the gateway's hold_timeout, and until the gateway is %s old, its startup_timeout",
			err, c.HoldTimeout, c.StartupTimeout)
	}
	return err.Error()
}

func (c *Config) waited() string {
	if c.HoldTimeout == 0 {
		return ", and no request waits: the gateway's hold_timeout is 0"
	}
	return fmt.Sprintf(" within %s, the gateway's hold_timeout", c.HoldTimeout)
}

func (c *Config) stopped() string {
	return fmt.Sprintf("this gateway stops and has not got an answer within %s, its shutdown_timeout: whether the request was processed is not known", c.ShutdownTimeout)
}
