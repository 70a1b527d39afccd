package async

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is the queue's settings. The names are OpenFaaS Pro's where it has one. The defaults are those of the tags; [New]
// applies them to zero fields too, except where zero has a meaning.
type Config struct {
	// Socket is the unix socket of this node's queue Redis; required. Of the environment, empty means no queue.
	Socket string `envconfig:"async_redis_socket"`
	// Password is the default user's; empty: none is asked for.
	Password string `ignored:"true" json:"-"`

	// MaxRetryAttempts is how often a call, or a callback, that failed is tried again; 0 is never.
	MaxRetryAttempts int `envconfig:"max_retry_attempts" default:"10"`
	// InitialRetryWait is the shortest pause before a retry, and the first one; 0 is none. MaxRetryWait is the longest.
	InitialRetryWait time.Duration `envconfig:"initial_retry_wait" default:"10s"`
	MaxRetryWait     time.Duration `envconfig:"max_retry_wait" default:"120s"`
	// RetryCodes are the statuses of a function after which a call is retried. One that a part of the system answered in
	// the function's place is retried whatever its status.
	RetryCodes []int `envconfig:"retry_http_codes" default:"408,429,500,502,503,504"`

	// MaxQueued and MaxQueuedPerFunction bound the calls that are kept, dead letters aside.
	MaxQueued            int `envconfig:"async_max_queued" default:"100000"`
	MaxQueuedPerFunction int `envconfig:"async_max_queued_per_function" default:"50000"`
	// MaxInflight and MaxInflightPerFunction bound the calls that run at once. A function with a max_inflight of its own has
	// that times its ready replicas, if that is less.
	MaxInflight            int `envconfig:"async_max_inflight" default:"64"`
	MaxInflightPerFunction int `envconfig:"async_max_inflight_per_function" default:"50"`
	// RunTimeout bounds one attempt of a call, over and above what the gateway bounds.
	RunTimeout time.Duration `envconfig:"async_run_timeout" default:"1h"`

	// MaxResult bounds what is kept of a result for its callback, in bytes: the callback of one that is longer has no body,
	// and says so.
	MaxResult int `envconfig:"async_max_result_bytes" default:"1048576"`
	// MaxCallbacks bounds the callbacks under way, half of them for one function's. CallbackTimeout bounds one.
	MaxCallbacks    int           `envconfig:"async_max_callbacks" default:"32"`
	CallbackTimeout time.Duration `envconfig:"async_callback_timeout" default:"30s"`
	// CallbackNetworks are networks such as 10.1.0.0/16 that callbacks may go to although they are this machine's own,
	// loopback, link-local, multicast or reserved ones, or a cloud's metadata service, comma separated.
	CallbackNetworks []string `envconfig:"async_callback_networks"`

	// MaxDead bounds the dead letters, DeadRetention their age; the oldest are dropped, and counted.
	MaxDead       int           `envconfig:"async_max_dead_letters" default:"10000"`
	DeadRetention time.Duration `envconfig:"async_dead_letter_retention" default:"168h"`

	// StopTimeout is how long attempts under way may take once Run is to end; 0 cuts them at once.
	StopTimeout time.Duration `ignored:"true"`
	// Logger takes what changed; default: discard.
	Logger *slog.Logger `ignored:"true" json:"-"`
	// Registerer takes the metrics; default: a registry that nobody reads.
	Registerer prometheus.Registerer `ignored:"true" json:"-"`

	prefix string // of all keys, for tests
}

// Bounds of settings: what lies beyond is a typing error.
const (
	maxAttempts = 1000
	maxWait     = 24 * time.Hour
	maxCount    = 10_000_000
	maxResult   = 64 << 20
)

func (c Config) withDefaults() Config {
	for field, value := range map[*int]int{
		&c.MaxQueued: 100_000, &c.MaxQueuedPerFunction: 50_000, &c.MaxInflight: 64, &c.MaxInflightPerFunction: 50,
		&c.MaxResult: 1 << 20, &c.MaxCallbacks: 32, &c.MaxDead: 10_000,
	} {
		*field = cmp.Or(*field, value)
	}
	for field, value := range map[*time.Duration]time.Duration{
		&c.RunTimeout: time.Hour, &c.CallbackTimeout: 30 * time.Second, &c.DeadRetention: 7 * 24 * time.Hour,
		&c.MaxRetryWait: max(c.InitialRetryWait, 2*time.Minute),
	} {
		*field = cmp.Or(*field, value)
	}
	if c.RetryCodes == nil {
		c.RetryCodes = []int{408, 429, 500, 502, 503, 504}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	if c.prefix == "" {
		c.prefix = "async:"
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	if !strings.HasPrefix(c.Socket, "/") {
		errs = append(errs, fmt.Errorf("async_redis_socket is %q: legal is an absolute path", c.Socket))
	}
	for _, n := range []struct {
		name             string
		value, low, high int
	}{
		{"max_retry_attempts", c.MaxRetryAttempts, 0, maxAttempts},
		{"async_max_queued", c.MaxQueued, 1, maxCount}, {"async_max_queued_per_function", c.MaxQueuedPerFunction, 1, maxCount},
		{"async_max_inflight", c.MaxInflight, 1, 10_000}, {"async_max_inflight_per_function", c.MaxInflightPerFunction, 1, 10_000},
		{"async_max_result_bytes", c.MaxResult, 1, maxResult}, {"async_max_callbacks", c.MaxCallbacks, 1, 10_000},
		{"async_max_dead_letters", c.MaxDead, 1, maxCount},
	} {
		if n.value < n.low || n.value > n.high {
			errs = append(errs, fmt.Errorf("%s is %d: legal is %d to %d", n.name, n.value, n.low, n.high))
		}
	}
	for _, d := range []struct {
		name             string
		value, low, high time.Duration
	}{
		{"initial_retry_wait", c.InitialRetryWait, 0, maxWait}, {"max_retry_wait", c.MaxRetryWait, c.InitialRetryWait, maxWait},
		{"async_run_timeout", c.RunTimeout, time.Second, maxWait}, {"async_callback_timeout", c.CallbackTimeout, 10 * time.Millisecond, time.Hour},
		{"async_dead_letter_retention", c.DeadRetention, time.Minute, 366 * 24 * time.Hour},
	} {
		if d.value < d.low || d.value > d.high {
			errs = append(errs, fmt.Errorf("%s is %s: legal is %s to %s", d.name, d.value, d.low, d.high))
		}
	}
	for _, code := range c.RetryCodes {
		if code < 400 || code > 599 {
			errs = append(errs, fmt.Errorf("retry_http_codes has %d: legal are 400 to 599", code))
		}
	}
	if _, err := parseNetworks(c.CallbackNetworks); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func parseNetworks(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		network, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("async_callback_networks has %q: legal are networks such as 10.1.0.0/16 and fd00::/8", text)
		}
		all = append(all, network.Masked())
	}
	return all, nil
}
