package async

import (
	"cmp"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/settings"
)

// Config is the queue's settings. The names are OpenFaaS Pro's where it has one. The defaults are those of the tags; [New]
// applies them to zero fields too, except where zero has a meaning.
type Config struct {
	// Socket is the unix socket of this node's queue Redis; required. Of the environment, empty means no queue.
	Socket string `envconfig:"async_redis_socket"`
	// Password is the default user's; empty: none is asked for.
	Password string `ignored:"true" json:"-"`

	// MaxRetryAttempts is how often a call, or a callback, that failed is tried again; 0 is never.
	MaxRetryAttempts int `envconfig:"max_retry_attempts" default:"10" legal:"0 to 1000"`
	// InitialRetryWait is the shortest pause before a retry, and the first one; 0 is none. MaxRetryWait is the longest.
	InitialRetryWait time.Duration `envconfig:"initial_retry_wait" default:"10s" legal:"0s to 24h"`
	MaxRetryWait     time.Duration `envconfig:"max_retry_wait" default:"120s" legal:"0s to 24h"`
	// RetryCodes are the statuses of a function after which a call is retried. One that a part of the system answered in
	// the function's place is retried whatever its status.
	RetryCodes []int `envconfig:"retry_http_codes" default:"408,429,500,502,503,504" legal:"400 to 599"`

	// MaxQueued and MaxQueuedPerFunction bound the calls that are kept, dead letters aside.
	MaxQueued            int `envconfig:"async_max_queued" default:"100000" legal:"1 to 10000000"`
	MaxQueuedPerFunction int `envconfig:"async_max_queued_per_function" default:"50000" legal:"1 to 10000000"`
	// MaxInflight and MaxInflightPerFunction bound the calls that run at once. A function with a max_inflight of its own has
	// that times its ready replicas, if that is less.
	MaxInflight            int `envconfig:"async_max_inflight" default:"64" legal:"1 to 10000"`
	MaxInflightPerFunction int `envconfig:"async_max_inflight_per_function" default:"50" legal:"1 to 10000"`
	// RunTimeout bounds one attempt of a call, over and above what the gateway bounds.
	RunTimeout time.Duration `envconfig:"async_run_timeout" default:"1h" legal:"1s to 24h"`

	// MaxResult bounds what is kept of a result for its callback, in bytes. The callback of a longer one has no
	// body, and says so.
	MaxResult int `envconfig:"async_max_result_bytes" default:"1048576" legal:"1 to 67108864"`
	// MaxCallbacks bounds the callbacks under way, half of them for one function's. CallbackTimeout bounds one.
	MaxCallbacks    int           `envconfig:"async_max_callbacks" default:"32" legal:"1 to 10000"`
	CallbackTimeout time.Duration `envconfig:"async_callback_timeout" default:"30s" legal:"10ms to 1h"`
	// CallbackNetworks are networks such as 10.1.0.0/16, comma separated, that callbacks may reach in spite of
	// the rules. The rules exclude this machine's own networks, loopback, link-local, multicast and reserved
	// ones, and clouds' metadata services.
	CallbackNetworks []string `envconfig:"async_callback_networks"`

	// MaxDead bounds the dead letters, DeadRetention their age; the oldest are dropped, and counted.
	MaxDead       int           `envconfig:"async_max_dead_letters" default:"10000" legal:"1 to 10000000"`
	DeadRetention time.Duration `envconfig:"async_dead_letter_retention" default:"168h" legal:"1m to 8784h"`

	// StopTimeout is how long attempts under way may take once Run is to end; 0 cuts them at once.
	StopTimeout time.Duration `ignored:"true"`
	// Logger takes what changed; default: discard.
	Logger *slog.Logger `ignored:"true" json:"-"`
	// Registerer takes the metrics; default: a registry that nobody reads.
	Registerer prometheus.Registerer `ignored:"true" json:"-"`

	prefix string // of all keys, for tests
}

// maxWait is the longest pause that settings and functions can ask for.
const maxWait = 24 * time.Hour

// WithDefaults fills what is zero and may not be. [New] does so by itself.
func (c Config) WithDefaults() Config {
	settings.Defaults(&c)
	c.MaxRetryWait = cmp.Or(c.MaxRetryWait, max(c.InitialRetryWait, 2*time.Minute))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	c.prefix = cmp.Or(c.prefix, "async:")
	return c
}

// Validate joins everything that is wrong with c.
func (c Config) Validate() error {
	errs := []error{settings.Check(c)}
	if !strings.HasPrefix(c.Socket, "/") {
		errs = append(errs, settings.Mistake("async_redis_socket", c.Socket, "an absolute path"))
	}
	if c.MaxRetryWait < c.InitialRetryWait {
		errs = append(errs, settings.Mistake("max_retry_wait", c.MaxRetryWait, "at least initial_retry_wait, %s", c.InitialRetryWait))
	}
	_, err := parseNetworks(c.CallbackNetworks)
	return errors.Join(append(errs, err)...)
}

func parseNetworks(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		network, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, settings.Mistake("async_callback_networks", text, "networks such as 10.1.0.0/16 and fd00::/8")
		}
		all = append(all, network.Masked())
	}
	return all, nil
}
