package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
	"waggle/provider/gateway/certs"
	"waggle/provider/settings"
)

// Config is the gateway's settings. The names are OpenFaaS's where it has one. The defaults are those of the tags.
// [New] applies them to zero fields too, so that tests need not name them, except where zero is legal.
type Config struct {
	// Port is where functions and the API are served.
	Port int `envconfig:"port" default:"8080" legal:"1 to 65535"`
	// MetricsPort serves /metrics, to those with the credentials, and nothing that clients need.
	MetricsPort int `envconfig:"metrics_port" default:"8082" legal:"1 to 65535"`
	// ProviderURL is where /system/ goes and the replica table comes from: http://host:port. Empty beside a fixed Table: there is no provider.
	ProviderURL string `envconfig:"functions_provider_url" default:"http://provider:8081"`
	// NodeID is the Swarm node this gateway runs on; replicas there are preferred. Empty: no preference.
	NodeID string `envconfig:"node_id"`
	// ReadTimeout bounds the silence while a client sends a request's body.
	ReadTimeout time.Duration `envconfig:"read_timeout" default:"60s" legal:"1s to 24h"`
	// WriteTimeout bounds how long a client may let a response wait without taking any of it.
	WriteTimeout time.Duration `envconfig:"write_timeout" default:"60s" legal:"1s to 24h"`
	// UpstreamTimeout bounds the wait for a function's response head, and the silence within its body.
	UpstreamTimeout time.Duration `envconfig:"upstream_timeout" default:"60s" legal:"1s to 24h"`
	// MaxUpstreamTimeout is the most that a function's own exec_timeout and write_timeout raise UpstreamTimeout to.
	MaxUpstreamTimeout time.Duration `envconfig:"max_upstream_timeout" default:"10m" legal:"1s to 24h"`
	// HeaderTimeout bounds the arrival of a request's head, from its first byte.
	HeaderTimeout time.Duration `envconfig:"header_timeout" default:"10s" legal:"1s to 24h"`
	// IdleTimeout is how long a client's connection is kept between requests.
	IdleTimeout time.Duration `envconfig:"idle_timeout" default:"75s" legal:"1s to 24h"`
	// HoldTimeout bounds the wait for a replica: a function that wakes, a busy one; 0 means no wait.
	HoldTimeout time.Duration `envconfig:"hold_timeout" default:"30s" legal:"0s to 24h"`
	// StartupTimeout is how long a gateway that knows no function, by table or DNS, says that it is starting and
	// holds requests. 0 means not at all. On a node that has just joined an overlay network, Swarm's DNS may know
	// nothing that runs on other nodes, the provider included. That presumably lasts until NetworkDB's next bulk
	// exchange. Those are 30 s apart, and the default lets one of them fail.
	StartupTimeout time.Duration `envconfig:"startup_timeout" default:"65s" legal:"0s to 24h"`
	// TunnelTimeout bounds the silence, in both directions, of a WebSocket.
	TunnelTimeout time.Duration `envconfig:"tunnel_timeout" default:"1h" legal:"1s to 24h"`
	// ShutdownDelay is the time between turning unready and refusing connections, for load balancers to notice.
	ShutdownDelay time.Duration `envconfig:"shutdown_delay" default:"2s" legal:"0s to 24h"`
	// ShutdownTimeout bounds the wait for requests under way, after that delay; 0 cuts them at once.
	ShutdownTimeout time.Duration `envconfig:"shutdown_timeout" default:"60s" legal:"0s to 24h"`

	// UsageInterval lies between two readings of what a replica consumes, from its metrics port; 0 means none are taken.
	UsageInterval time.Duration `envconfig:"usage_interval" default:"10s" legal:"0s to 24h"`

	// MaxIdleConnsPerHost bounds the idle connections kept to each replica.
	MaxIdleConnsPerHost int `envconfig:"max_idle_conns_per_host" default:"1024" legal:"1 to 1048576"`
	// MaxHeld bounds the requests of one function that wait for a replica.
	MaxHeld int `envconfig:"max_held_per_function" default:"2000" legal:"1 to 1048576"`
	// MaxConns bounds the client connections, MaxConnsPerIP those from one address; 0 for the latter means no bound.
	MaxConns      int `envconfig:"max_connections" default:"32768" legal:"1 to 16777216"`
	MaxConnsPerIP int `envconfig:"max_connections_per_ip" default:"16384" legal:"0 to 16777216"`
	// MaxHeader bounds a request's head in bytes, MaxURI its target.
	MaxHeader int `envconfig:"max_header_bytes" default:"16384" legal:"1024 to 65536"`
	MaxURI    int `envconfig:"max_uri_bytes" default:"8192" legal:"at least 256"`
	// MaxResponseHeader bounds the head of a function's response in bytes.
	MaxResponseHeader int `envconfig:"max_response_header_bytes" default:"65536" legal:"1024 to 65536"`
	// MaxBody bounds a request's body in bytes; 0 means no bound.
	MaxBody int64 `envconfig:"max_body_bytes" default:"0" legal:"at least 0"`

	// MaxAsyncBody bounds the body of an asynchronous call in bytes.
	MaxAsyncBody int64 `envconfig:"async_max_body_bytes" default:"1048576" legal:"1 to 67108864"`

	// RateLimit bounds the requests per second that come from one prefix, an IPv4 /24 or IPv6 /56; 0 means no bound.
	// RateBurst is how many of them may come at once; 0 means twice the rate, at least 20.
	RateLimit float64 `envconfig:"rate_limit" default:"0" legal:"0 to 1000000"`
	RateBurst int     `envconfig:"rate_burst" default:"0" legal:"0 to 1000000"`
	// TrustedProxies are addresses and networks whose X-Forwarded-For says for whom a request counts, comma separated.
	TrustedProxies []string `envconfig:"trusted_proxies"`
	// Home is where `GET /` leads: a path such as /function/vote, or a URL; empty: to a page that says what this is.
	Home string `envconfig:"home"`
	// AccessLog is the most requests per second that are logged; 0 logs none. What is left out is counted in the next line.
	AccessLog int `envconfig:"access_log" default:"0" legal:"0 to 1000000"`

	// TLSCertFile and TLSKeyFile are a certificate with its chain and the private key, in PEM; together they switch TLS on.
	// They are read again when they change.
	TLSCertFile string `envconfig:"tls_cert_file"`
	TLSKeyFile  string `envconfig:"tls_key_file"`
	// TLSPort is where TLS is served, if it is on.
	TLSPort int `envconfig:"tls_port" default:"8443" legal:"1 to 65535"`
	// TLSRedirect makes Port answer nothing but GET and HEAD, with a redirect to https, and /healthz and ACME challenges.
	TLSRedirect bool `envconfig:"tls_redirect"`
	// TLSRedirectPort is where clients find TLSPort; default: there.
	TLSRedirectPort int `envconfig:"tls_redirect_port" legal:"1 to 65535"`
	// ACMEDomains get certificates from the ACME server at ACMEDirectoryURL (default: Let's Encrypt), which switches TLS on.
	// That server asks for proof on port 443 or 80 of each domain, which must lead to this gateway.
	ACMEDomains      []string `envconfig:"acme_domains"`
	ACMEDirectoryURL string   `envconfig:"acme_directory_url"`
	// ACMEEmail is what that server may write to; default: nobody.
	ACMEEmail string `envconfig:"acme_email"`
	// ACMECacheDir keeps its account and certificates over restarts; required with ACMEDomains.
	ACMECacheDir string `envconfig:"acme_cache_dir"`
	// ACMECAFile has the roots, in PEM, that the ACME server is known by; default: the system's.
	ACMECAFile string `envconfig:"acme_ca_file"`
	// HTTP2MaxStreams bounds the requests under way on one HTTP/2 connection.
	HTTP2MaxStreams int `envconfig:"http2_max_streams" default:"250" legal:"1 to 10000"`
	// DisableHTTP2 leaves clients HTTP/1.1 alone.
	DisableHTTP2 bool `envconfig:"disable_http2"`

	// FunctionNamespace is the namespace of functions addressed without one; default: openfaas-fn.
	FunctionNamespace string `ignored:"true"`
	// WaitingPageAfter is how long a browser is held for a function that starts before it gets a page that says so; default:
	// 2 s. Tests set it.
	WaitingPageAfter time.Duration `ignored:"true"`
	// Credentials are demanded by the routes that say so; the zero value demands none.
	Credentials settings.Credentials `ignored:"true"`
	// Release is the version in X-Served-By.
	Release string `ignored:"true"`
	// Logger is optional; nil discards.
	Logger *slog.Logger `ignored:"true"`
	// Registry takes the metrics and serves them; default: one of the gateway's own.
	Registry *prometheus.Registry `ignored:"true"`
	// Listener, TLSListener and MetricsListener are used instead of the ports if set.
	Listener        net.Listener `ignored:"true"`
	TLSListener     net.Listener `ignored:"true"`
	MetricsListener net.Listener `ignored:"true"`
	// Table is served until the feed brings a newer one, and for ever if ProviderURL is empty.
	Table *feed.Table `ignored:"true"`
	// Resolve finds functions by name while no table can be had; default: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error) `ignored:"true"`
	// Queue takes asynchronous calls; nil: there are none.
	Queue Queue `ignored:"true"`
}

// maxRate is more per second than one gateway can do.
const maxRate = 1_000_000

// WithDefaults fills what is zero and may not be. [New] does so by itself.
func (c Config) WithDefaults() Config {
	alone := c.ProviderURL == "" && c.Table != nil
	settings.Defaults(&c)
	if alone {
		c.ProviderURL = ""
	}
	if c.RateBurst == 0 {
		c.RateBurst = max(int(min(2*c.RateLimit, maxRate)), 20)
	}
	c.TLSRedirectPort = cmp.Or(c.TLSRedirectPort, c.TLSPort)
	c.FunctionNamespace = cmp.Or(c.FunctionNamespace, "openfaas-fn")
	c.Release = cmp.Or(c.Release, "dev")
	c.WaitingPageAfter = cmp.Or(c.WaitingPageAfter, 2*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

// Validate joins everything that is wrong with c. It opens nothing: see [Config.Check].
func (c Config) Validate() error {
	errs := []error{settings.Check(c)}
	if c.MaxURI > c.MaxHeader {
		errs = append(errs, settings.Mistake("max_uri_bytes", c.MaxURI, "at most max_header_bytes, %d", c.MaxHeader))
	}
	if c.MetricsPort == c.Port {
		errs = append(errs, settings.Mistake("metrics_port", c.MetricsPort, "another port than port"))
	}
	if _, err := c.trustedProxies(); err != nil {
		errs = append(errs, err)
	}
	if u, err := url.Parse(c.Home); err != nil || strings.ContainsAny(c.Home, " \t\r\n") || c.Home != "" && u.Scheme != "http" && u.Scheme != "https" && !strings.HasPrefix(c.Home, "/") {
		errs = append(errs, settings.Mistake("home", c.Home, "a path that begins with /, or a URL"))
	}
	if _, err := c.providerAddress(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.validateTLS())...)
}

// Check joins what is wrong with what c names outside of it: certificates that cannot be read, ports that are taken. It
// is for a gateway that does not run yet.
func (c Config) Check() error {
	errs := []error{settings.CheckFree("port", "", c.Port), settings.CheckFree("metrics_port", "", c.MetricsPort)}
	if from := c.certificates(); from.On() {
		_, err := certs.New(from)
		errs = append(errs, err, settings.CheckFree("tls_port", "", c.TLSPort))
	}
	return errors.Join(errs...)
}

// providerAddress is the host and port of ProviderURL; empty if there is none because a fixed Table is served.
func (c Config) providerAddress() (string, error) {
	if c.ProviderURL == "" && c.Table != nil {
		return "", nil
	}
	u, err := url.Parse(c.ProviderURL)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return "", settings.Mistake("functions_provider_url", c.ProviderURL, "http://host:port")
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
