package gateway

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/feed"
)

// Duration is a time.Duration that also reads a bare integer as seconds, as OpenFaaS settings do.
type Duration time.Duration

// Decode implements envconfig.Decoder.
func (d *Duration) Decode(text string) error {
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		*d = Duration(time.Duration(seconds) * time.Second)
		return nil
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is neither a duration such as 90s nor a number of seconds", text)
	}
	*d = Duration(parsed)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Config is the gateway's settings. The names are OpenFaaS's where it has one. The defaults are those of the tags;
// [New] applies them to zero fields too, so that tests need not name them, except where a field says what 0 means.
type Config struct {
	// Port is where functions and the API are served.
	Port int `envconfig:"port" default:"8080"`
	// MetricsPort serves /metrics, and nothing that clients need.
	MetricsPort int `envconfig:"metrics_port" default:"8082"`
	// ProviderURL is where /system/ goes and the replica table comes from; required.
	ProviderURL string `envconfig:"functions_provider_url"`
	// NodeID is the Swarm node this gateway runs on; replicas there are preferred. Empty: no preference.
	NodeID string `envconfig:"node_id"`
	// FunctionNamespace is the namespace of functions addressed without one.
	FunctionNamespace string `envconfig:"function_namespace" default:"openfaas-fn"`
	// BasicAuth demands the user and password of the files basic-auth-user and basic-auth-password in SecretMountPath
	// for /system/ and /ui/.
	BasicAuth       bool   `envconfig:"basic_auth" default:"true"`
	SecretMountPath string `envconfig:"secret_mount_path" default:"/run/secrets"`

	// ReadTimeout bounds the silence while a client sends a request's body.
	ReadTimeout Duration `envconfig:"read_timeout" default:"60s"`
	// WriteTimeout bounds how long a client may let a response wait without taking any of it.
	WriteTimeout Duration `envconfig:"write_timeout" default:"60s"`
	// UpstreamTimeout bounds the wait for a function's response head, and the silence within its body.
	UpstreamTimeout Duration `envconfig:"upstream_timeout" default:"60s"`
	// HeaderTimeout bounds the arrival of a request's head, from its first byte.
	HeaderTimeout Duration `envconfig:"header_timeout" default:"10s"`
	// IdleTimeout is how long a client's connection is kept between requests.
	IdleTimeout Duration `envconfig:"idle_timeout" default:"75s"`
	// HoldTimeout bounds the wait for a replica: a function that wakes, a busy one; 0 means none is waited for.
	HoldTimeout Duration `envconfig:"hold_timeout" default:"30s"`
	// StartupTimeout is how long a gateway that has neither a table nor any function by DNS says that it is starting, and
	// holds requests; 0 means not at all. On a node that has just joined an overlay network, Swarm's DNS may know nothing
	// that runs on other nodes, the provider included, presumably until NetworkDB's next bulk exchange; those are 30 s apart,
	// and the default lets one of them fail.
	StartupTimeout Duration `envconfig:"startup_timeout" default:"65s"`
	// TunnelTimeout bounds the silence, in both directions, of a WebSocket.
	TunnelTimeout Duration `envconfig:"tunnel_timeout" default:"1h"`
	// ShutdownDelay is the time between turning unready and refusing connections, for load balancers to notice.
	ShutdownDelay Duration `envconfig:"shutdown_delay" default:"2s"`
	// ShutdownTimeout bounds the wait for requests under way, after that delay; 0 cuts them at once.
	ShutdownTimeout Duration `envconfig:"shutdown_timeout" default:"60s"`

	// UsageInterval lies between two readings of what a replica consumes, from its metrics port; 0 means none are taken.
	UsageInterval Duration `envconfig:"usage_interval" default:"10s"`

	// MaxIdleConnsPerHost bounds the idle connections kept to each replica.
	MaxIdleConnsPerHost int `envconfig:"max_idle_conns_per_host" default:"1024"`
	// MaxHeld bounds the requests of one function that wait for a replica.
	MaxHeld int `envconfig:"max_held_per_function" default:"2000"`
	// MaxConns bounds the client connections, MaxConnsPerIP those from one address; 0 for the latter means no bound.
	MaxConns      int `envconfig:"max_connections" default:"32768"`
	MaxConnsPerIP int `envconfig:"max_connections_per_ip" default:"16384"`
	// MaxHeader bounds a request's head in bytes, MaxURI its target.
	MaxHeader int `envconfig:"max_header_bytes" default:"16384"`
	MaxURI    int `envconfig:"max_uri_bytes" default:"8192"`
	// MaxBody bounds a request's body in bytes; 0 means no bound.
	MaxBody int64 `envconfig:"max_body_bytes" default:"0"`

	// MaxAsyncBody bounds the body of an asynchronous call in bytes.
	MaxAsyncBody int64 `envconfig:"async_max_body_bytes" default:"1048576"`

	// RateLimit bounds the requests per second that come from one prefix, an IPv4 /24 or IPv6 /56; 0 means no bound.
	// RateBurst is how many of them may come at once; 0 means twice the rate, at least 20.
	RateLimit float64 `envconfig:"rate_limit" default:"0"`
	RateBurst int     `envconfig:"rate_burst" default:"0"`
	// TrustedProxies are addresses and networks whose X-Forwarded-For says for whom a request counts, comma separated.
	TrustedProxies []string `envconfig:"trusted_proxies"`
	// AccessLog is the most requests per second that are logged; 0 logs none. What is left out is counted in the next line.
	AccessLog int `envconfig:"access_log" default:"0"`

	// TLSCertFile and TLSKeyFile are a certificate with its chain and the private key, in PEM; together they switch TLS on.
	// They are read again when they change.
	TLSCertFile string `envconfig:"tls_cert_file"`
	TLSKeyFile  string `envconfig:"tls_key_file"`
	// TLSPort is where TLS is served, if it is on.
	TLSPort int `envconfig:"tls_port" default:"8443"`
	// TLSRedirect makes Port answer nothing but GET and HEAD, with a redirect to https, and /healthz and ACME challenges.
	TLSRedirect bool `envconfig:"tls_redirect"`
	// TLSRedirectPort is where clients find TLSPort; default: there.
	TLSRedirectPort int `envconfig:"tls_redirect_port"`
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
	HTTP2MaxStreams int `envconfig:"http2_max_streams" default:"250"`
	// DisableHTTP2 leaves clients HTTP/1.1 alone.
	DisableHTTP2 bool `envconfig:"disable_http2"`

	// Release is the version in X-Served-By.
	Release string `ignored:"true"`
	// Logger is required by nobody; default: discard.
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

// withDefaults fills what is zero. Fields whose zero has a meaning are left alone.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *Duration
		value time.Duration
	}{
		{&c.ReadTimeout, 60 * time.Second}, {&c.WriteTimeout, 60 * time.Second}, {&c.UpstreamTimeout, 60 * time.Second},
		{&c.HeaderTimeout, 10 * time.Second}, {&c.IdleTimeout, 75 * time.Second}, {&c.TunnelTimeout, time.Hour},
	} {
		if *d.field == 0 {
			*d.field = Duration(d.value)
		}
	}
	for _, d := range []struct {
		field *int
		value int
	}{
		{&c.Port, 8080}, {&c.MetricsPort, 8082}, {&c.MaxIdleConnsPerHost, 1024}, {&c.MaxHeld, 2000},
		{&c.MaxConns, 32768}, {&c.MaxHeader, 16 << 10}, {&c.MaxURI, 8 << 10}, {&c.TLSPort, 8443},
		{&c.HTTP2MaxStreams, 250},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.RateBurst == 0 {
		c.RateBurst = max(int(min(2*c.RateLimit, maxRate)), 20)
	}
	if c.MaxAsyncBody == 0 {
		c.MaxAsyncBody = 1 << 20
	}
	if c.TLSRedirectPort == 0 {
		c.TLSRedirectPort = c.TLSPort
	}
	if c.FunctionNamespace == "" {
		c.FunctionNamespace = "openfaas-fn"
	}
	if c.SecretMountPath == "" {
		c.SecretMountPath = "/run/secrets"
	}
	if c.Release == "" {
		c.Release = "dev"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	number := func(name string, value, low, high int) {
		if value < low || value > high {
			errs = append(errs, fmt.Errorf("%s is %d: legal is %d to %d", name, value, low, high))
		}
	}
	number("port", c.Port, 1, 65535)
	number("metrics_port", c.MetricsPort, 1, 65535)
	number("max_idle_conns_per_host", c.MaxIdleConnsPerHost, 1, 1<<20)
	number("max_held_per_function", c.MaxHeld, 1, 1<<20)
	number("max_connections", c.MaxConns, 1, 1<<24)
	number("max_connections_per_ip", c.MaxConnsPerIP, 0, 1<<24)
	number("max_header_bytes", c.MaxHeader, 1<<10, maxMaxHeader)
	number("max_uri_bytes", c.MaxURI, 256, c.MaxHeader)
	number("access_log", c.AccessLog, 0, maxRate)
	number("rate_burst", c.RateBurst, 1, maxRate)
	number("tls_port", c.TLSPort, 1, 65535)
	number("tls_redirect_port", c.TLSRedirectPort, 1, 65535)
	number("http2_max_streams", c.HTTP2MaxStreams, 1, 10_000)
	if !(c.RateLimit >= 0 && c.RateLimit <= maxRate) { // in this form NaN is not legal
		errs = append(errs, fmt.Errorf("rate_limit is %g: legal is 0 (no bound) to %d", c.RateLimit, maxRate))
	}
	if _, err := c.trustedProxies(); err != nil {
		errs = append(errs, err)
	}
	if c.MaxBody < 0 {
		errs = append(errs, fmt.Errorf("max_body_bytes is %d: legal is 0 (no bound) and more", c.MaxBody))
	}
	if c.MaxAsyncBody < 1 || c.MaxAsyncBody > maxAsyncBody {
		errs = append(errs, fmt.Errorf("async_max_body_bytes is %d: legal is 1 to %d", c.MaxAsyncBody, maxAsyncBody))
	}
	for _, d := range []struct {
		name  string
		value Duration
		low   time.Duration
	}{
		{"read_timeout", c.ReadTimeout, time.Second}, {"write_timeout", c.WriteTimeout, time.Second},
		{"upstream_timeout", c.UpstreamTimeout, time.Second}, {"header_timeout", c.HeaderTimeout, time.Second},
		{"idle_timeout", c.IdleTimeout, time.Second}, {"hold_timeout", c.HoldTimeout, 0},
		{"startup_timeout", c.StartupTimeout, 0},
		{"tunnel_timeout", c.TunnelTimeout, time.Second}, {"shutdown_delay", c.ShutdownDelay, 0},
		{"shutdown_timeout", c.ShutdownTimeout, 0}, {"usage_interval", c.UsageInterval, 0},
	} {
		if time.Duration(d.value) < d.low || time.Duration(d.value) > 24*time.Hour {
			errs = append(errs, fmt.Errorf("%s is %s: legal is %s to 24h", d.name, d.value, d.low))
		}
	}
	if _, err := c.providerAddress(); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, c.validateTLS())
	return errors.Join(errs...)
}

// providerAddress is the host and port of ProviderURL; empty if there is none because a fixed Table is served.
func (c Config) providerAddress() (string, error) {
	if c.ProviderURL == "" && c.Table != nil {
		return "", nil
	}
	u, err := url.Parse(c.ProviderURL)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("functions_provider_url is %q: legal is http://host:port", c.ProviderURL)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// credentials are the user and password of the API; the zero value demands none.
type credentials struct{ user, password string }

func (c Config) credentials() (credentials, error) {
	if !c.BasicAuth {
		return credentials{}, nil
	}
	read := func(name string) (string, error) {
		path := filepath.Join(c.SecretMountPath, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading the API's credentials (basic_auth is true): %w", err)
		}
		if len(strings.TrimSpace(string(text))) == 0 {
			return "", fmt.Errorf("reading the API's credentials: %s is empty", path)
		}
		return strings.TrimSpace(string(text)), nil
	}
	user, err1 := read("basic-auth-user")
	password, err2 := read("basic-auth-password")
	return credentials{user, password}, errors.Join(err1, err2)
}

// header is the Authorization value of these credentials.
func (c credentials) header() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
}
