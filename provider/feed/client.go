package feed

import (
	"bufio"
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
	// Cancelled is told of each asynchronous call that somebody wants cancelled, perhaps more than once; nil ignores them.
	// It must not block: the stream waits for it.
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

// Snapshot is one table and the signal that it is no longer the newest.
type Snapshot struct {
	Table Table
	// Changed is closed once a newer snapshot can be had from [Client.Newest].
	Changed chan struct{}
}

// maxTable bounds one line of the stream: 5,000 functions of 20 replicas at about 150 bytes each are 15 MB.
const maxTable = 64 << 20

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

// Newest is the last table received. Before the first one its Table has an empty Epoch. To wait for a change, take
// Newest, look, then wait on its Changed: a change in between has closed that channel already.
func (c *Client) Newest() *Snapshot { return c.newest.Load() }

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
			c.cfg.Logger.Warn("provider lost, going on with the last replica table", "error", err)
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

// follow reads one stream until it ends and says how many lines it brought.
func (c *Client) follow(ctx context.Context) (lines int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.cfg.Watchdog, func() {
		cancel(fmt.Errorf("nothing heard for %s", c.cfg.Watchdog))
	})
	defer watchdog.Stop()
	resp, err := c.send(ctx, http.MethodGet, "/feed/table", nil)
	if err != nil {
		return 0, cmpCause(ctx, fmt.Errorf("connecting to the provider: %w", err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("connecting to the provider: it answered %s", resp.Status)
	}
	in := bufio.NewReaderSize(heard{resp.Body, func() { watchdog.Reset(c.cfg.Watchdog) }}, 64<<10)
	for {
		line, err := readLine(in)
		if err != nil {
			return lines, cmpCause(ctx, fmt.Errorf("reading the table stream: %w", err))
		}
		lines++
		if c.goneSince.Swap(0) != 0 {
			c.cfg.Logger.Info("provider connected")
		}
		if len(line) == 0 {
			continue
		}
		var news struct {
			Table
			cancelLine
		}
		if err := json.Unmarshal(line, &news); err != nil {
			return lines, fmt.Errorf("decoding a replica table: %w", err)
		}
		if ValidCallID(news.Cancel) {
			c.cfg.Cancelled(news.Cancel)
		}
		c.take(news.Table)
	}
}

// heard tells of everything that comes: a long table over a slow line is no silence.
type heard struct {
	io.Reader
	note func()
}

func (h heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.note()
	}
	return n, err
}

// take makes t the newest table unless it is an older one of the same provider process.
func (c *Client) take(t Table) {
	old := c.newest.Load()
	if t.Epoch == "" || (t.Epoch == old.Table.Epoch && t.Revision <= old.Table.Revision) {
		return
	}
	c.newest.Store(&Snapshot{Table: t, Changed: make(chan struct{})})
	close(old.Changed)
}

// cmpCause prefers the watchdog's reason to the bare "context canceled" that it leads to.
func cmpCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// readLine returns the next line without its end, at most maxTable bytes long.
func readLine(in *bufio.Reader) ([]byte, error) {
	var long []byte
	for {
		part, err := in.ReadSlice('\n')
		if err == nil && long == nil {
			return bytes.TrimSuffix(part, emptyLine), nil
		}
		long = append(long, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(long, emptyLine), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(long) > maxTable:
			return nil, fmt.Errorf("a table is longer than %d bytes", maxTable)
		}
	}
}

// report sends the load each ReportEvery; a report that fails is simply followed by the next, which holds it too.
func (c *Client) report(ctx context.Context) {
	if c.cfg.Report == nil {
		return
	}
	tick := time.NewTicker(c.cfg.ReportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, gone := c.GoneSince(); gone {
			continue
		}
		if err := c.post(ctx, "/feed/load", 2*c.cfg.ReportEvery, c.cfg.Report()); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Debug("reporting the load failed", "error", err)
		}
	}
}

// Wake asks the provider to bring a function back from zero replicas; [ErrUnknownFunction] if it knows none of that name.
func (c *Client) Wake(ctx context.Context, name, namespace string) error {
	return c.post(ctx, "/feed/wake", 35*time.Second, wakeRequest{Name: name, Namespace: namespace})
}

// Cancel asks the provider to have every gateway cancel an asynchronous call; [ErrUnknownCall] if all say that they have
// none of that id.
func (c *Client) Cancel(ctx context.Context, id string) error {
	return c.post(ctx, "/feed/cancel", 5*time.Second, cancelLine{Cancel: id})
}

// AnswerCancel says what became here of a call that ClientConfig.Cancelled was told of.
func (c *Client) AnswerCancel(ctx context.Context, answer CancelAnswer) error {
	return c.post(ctx, "/feed/cancelled", 5*time.Second, answer)
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
