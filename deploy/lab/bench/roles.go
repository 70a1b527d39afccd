package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"waggle/provider/feed"
	"waggle/provider/gateway"
)

// runRole is what the children do, until SIGTERM.
func runRole(name string, args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	address, args := args[0], args[1:]
	switch name {
	case "function":
		return serve(ctx, address, protocols["http1"], "", http.HandlerFunc(hello))
	case "gateway":
		return runGateway(ctx, address, args[0], protocols[args[1]], args[2], args[3])
	case "vote":
		return runVote(ctx, address)
	case "reverseproxy":
		return serve(ctx, address, protocols[args[1]], args[2], reverseProxy(args[0]))
	case "reverseproxy-pooled":
		p := reverseProxy(args[0])
		p.BufferPool = &bufferPool{sync.Pool{New: func() any { return new([32 << 10]byte) }}}
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 1024, 1024
		p.Transport = t
		return serve(ctx, address, protocols[args[1]], args[2], p)
	case "fasthttp":
		return serveFast(ctx, address, args[0])
	case "blind-relay":
		return blindRelay(ctx, address, args[0])
	}
	return fmt.Errorf("role is %q: legal is function, gateway, vote, reverseproxy, reverseproxy-pooled, fasthttp, blind-relay", name)
}

// reverseProxy is the standard library's, quiet about clients that wrk cuts off at the end of a run.
func reverseProxy(function string) *httputil.ReverseProxy {
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: function})
	p.ErrorLog = log.New(io.Discard, "", 0)
	return p
}

var long = strings.Repeat("x", 64<<10)

// hello is the function: a trivial Go server.
func hello(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if strings.HasSuffix(r.URL.Path, "/64k") {
		_, _ = io.WriteString(w, long)
		return
	}
	_, _ = io.WriteString(w, "Hello World\n")
}

// serve speaks proto, with the certificate in dir.
func serve(ctx context.Context, address string, proto protocol, dir string, h http.Handler) error {
	s := &http.Server{Addr: address, Handler: h, Protocols: new(http.Protocols)} //nolint:gosec // no time limits: setting deadlines would be measured too
	s.Protocols.SetHTTP1(!proto.http2)
	s.Protocols.SetHTTP2(proto.http2)
	s.Protocols.SetUnencryptedHTTP2(proto.http2)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	listen := s.ListenAndServe
	if proto.tls {
		listen = func() error {
			return s.ListenAndServeTLS(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
		}
	}
	if err := listen(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveFast is the smallest proxy that fasthttp makes: its client behind its server, nothing else.
func serveFast(ctx context.Context, address, function string) error {
	client := &fasthttp.HostClient{Addr: function, MaxConns: 4096, NoDefaultUserAgentHeader: true}
	s := &fasthttp.Server{NoDefaultServerHeader: true, MaxRequestBodySize: 1 << 20, Handler: func(c *fasthttp.RequestCtx) {
		c.Request.Header.Del("Connection")
		if err := client.Do(&c.Request, &c.Response); err != nil {
			c.Error(err.Error(), fasthttp.StatusBadGateway)
		}
	}}
	stop := context.AfterFunc(ctx, func() { _ = s.Shutdown() })
	defer stop()
	return s.ListenAndServe(address)
}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte  { return p.Pool.Get().(*[32 << 10]byte)[:] }
func (p *bufferPool) Put(b []byte) { p.Pool.Put((*[32 << 10]byte)(b)) }

// runGateway is the gateway with everything on and a table of one function.
func runGateway(ctx context.Context, address, function string, proto protocol, dir, profile string) (err error) {
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return fmt.Errorf("creating the profile: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("starting the profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	cfg := gateway.Config{Listener: l, MetricsListener: metrics,
		HoldTimeout: 30 * time.Second, ShutdownTimeout: time.Minute, Table: &feed.Table{Epoch: "bench", Revision: 1,
			Functions: []feed.Function{{Name: "hello", Namespace: "openfaas-fn", Service: "hello", Desired: 1, Scale: feed.Scale{Min: 1, Max: 1},
				HealthPath: "/", Replicas: []feed.Replica{{ID: "1", Address: function, State: feed.Ready}}}}}}
	if proto.tls {
		cfg.TLSCertFile, cfg.TLSKeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		if cfg.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("listening without TLS: %w", err)
		}
		cfg.TLSListener = l
	}
	g, err := gateway.New(cfg)
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// blindRelay copies bytes without parsing them, one connection to the function per client connection. It shows
// what goroutines and the standard library's sockets cost by themselves.
func blindRelay(ctx context.Context, address, function string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go func() {
			defer c.Close()
			up, err := net.Dial("tcp", function)
			if err != nil {
				return
			}
			defer up.Close()
			buf := make([]byte, 32<<10)
			for from, to := c, up; ; from, to = to, from {
				n, err := from.Read(buf)
				if err != nil {
					return
				}
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}
