package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// ClientConfig says where a gateway finds its provider. The zero value of every field but URL is usable.
type ClientConfig struct {
	// URL is the provider's base URL, e.g. http://waggle_provider:8081; required.
	URL string
	// User and Password are sent as basic auth when User is not empty.
	User, Password string
	// Report makes the load report of this moment; nil sends none. It is called from one goroutine.
	Report func() Report
	// Urgent makes a partial report if there is something that cannot wait; nil: there never is. It is called by the
	// goroutine of Report, 20 times a second.
	Urgent func() (Report, bool)
	// Cancelled is called for each asynchronous call to be cancelled, perhaps more than once; nil ignores them. It
	// must not block: the stream waits for it.
	Cancelled func(id string)
	// ReportEvery is the time between reports; default 1 s.
	ReportEvery time.Duration
	// Watchdog is the silence after which a stream counts as dead; default 10 s, twice the longest legal heartbeat.
	Watchdog time.Duration
	// MaxBackoff bounds the pause between two attempts to connect; default 2 s. Pauses start at a tenth of it.
	MaxBackoff time.Duration
	// Logger takes connects and disconnects; default: discard.
	Logger *slog.Logger
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.ReportEvery == 0 {
		c.ReportEvery = time.Second
	}
	if c.Watchdog == 0 {
		c.Watchdog = 2 * maxHeartbeat
	}
	if c.MaxBackoff == 0 {
		c.MaxBackoff = 2 * time.Second
	}
	if c.Urgent == nil {
		c.Urgent = func() (Report, bool) { return Report{}, false }
	}
	if c.Cancelled == nil {
		c.Cancelled = func(string) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c ClientConfig) validate() error {
	var errs []error
	if u, err := url.Parse(c.URL); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		errs = append(errs, fmt.Errorf("URL is %q: legal is http://host:port or https://host:port", c.URL))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"ReportEvery", c.ReportEvery}, {"Watchdog", c.Watchdog}, {"MaxBackoff", c.MaxBackoff}} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %s: legal is more than 0", d.name, d.value))
		}
	}
	return errors.Join(errs...)
}

// Client is the gateway's end: it holds the newest table it has received, for ever if need be.
// All methods are safe for concurrent use.
type Client struct {
	cfg    ClientConfig
	http   *http.Client
	newest atomic.Pointer[Snapshot]
	// goneSince is the Unix time in nanoseconds at which the stream was lost, 0 while it flows.
	goneSince atomic.Int64
}

// NewClient checks cfg. The provider counts as gone until Run has connected.
func NewClient(cfg ClientConfig) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the feed client: %w", err)
	}
	cfg.URL = strings.TrimRight(cfg.URL, "/")
	c := &Client{cfg: cfg, http: &http.Client{Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 5 * time.Second}).DialContext,
		ResponseHeaderTimeout: 35 * time.Second, // a wake waits for Swarm, at most 30 s
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
	}}}
	c.newest.Store(&Snapshot{Changed: make(chan struct{})})
	c.goneSince.Store(time.Now().UnixNano())
	return c, nil
}

// GoneSince says since when the provider cannot be heard; ok is false while it can.
func (c *Client) GoneSince() (since time.Time, ok bool) {
	at := c.goneSince.Load()
	if at == 0 {
		return time.Time{}, false
	}
	return time.Unix(0, at), true
}

// Run keeps the stream open and reports the load until ctx is done; it always returns nil.
func (c *Client) Run(ctx context.Context) error {
	reports := make(chan struct{})
	go func() {
		defer close(reports)
		c.report(ctx)
	}()
	defer c.http.CloseIdleConnections()
	defer func() { <-reports }()
	for pause := c.cfg.MaxBackoff / 10; ; {
		lines, err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if c.goneSince.CompareAndSwap(0, time.Now().UnixNano()) {
			c.cfg.Logger.Warn("provider lost, using the last replica table", "error", err)
		}
		if lines > 0 {
			pause = c.cfg.MaxBackoff / 10
		}
		// Jitter keeps gateways that lost the same provider from returning in step.
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, c.cfg.MaxBackoff)
	}
}

func (c *Client) post(ctx context.Context, path string, timeout time.Duration, body any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding the body of %s: %w", path, err)
	}
	resp, err := c.send(ctx, http.MethodPost, path, encoded)
	if err != nil {
		return fmt.Errorf("posting to %s: %w", path, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // also lets the connection be used again
	switch {
	case resp.StatusCode == http.StatusNotFound && path == "/feed/wake":
		return ErrUnknownFunction
	case resp.StatusCode == http.StatusNotFound && path == "/feed/cancel":
		return ErrUnknownCall
	case resp.StatusCode >= 300:
		return fmt.Errorf("posting to %s: provider answered %s: %s", path, resp.Status, bytes.TrimSpace(text))
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.cfg.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.cfg.User != "" {
		req.SetBasicAuth(c.cfg.User, c.cfg.Password)
	}
	return c.http.Do(req)
}
