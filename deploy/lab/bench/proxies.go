package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// proxy is something that stands before the function.
type proxy struct {
	name   string
	prefix string // of the path it is asked for
	start  func(ctx context.Context, b *bench, function string) (*process, error)
	// shortOnly proxies take requests and responses for single reads, which long ones are not.
	shortOnly bool
	// plainOnly ones know neither TLS nor HTTP/2.
	plainOnly bool
}

// The order matters: ratios are to haproxy, so it comes before those that are compared with it.
var proxies = []proxy{
	{name: "none", plainOnly: true},
	{name: "haproxy", start: startHAProxy},
	{name: "waggle", prefix: "/function/hello", start: func(ctx context.Context, b *bench, function string) (*process, error) {
		return startRole(ctx, "gateway", []string{function, b.protocol.name, b.dir, b.profile})
	}},
	{name: "nginx", start: startNginx},
	{name: "fasthttp", start: role("fasthttp"), plainOnly: true},
	{name: "blind-relay", start: role("blind-relay"), shortOnly: true, plainOnly: true},
	{name: "reverseproxy-pooled", start: role("reverseproxy-pooled")},
	{name: "reverseproxy", start: role("reverseproxy")},
}

func role(name string) func(context.Context, *bench, string) (*process, error) {
	return func(ctx context.Context, b *bench, function string) (*process, error) {
		return startRole(ctx, name, []string{function, b.protocol.name, b.dir})
	}
}

// process is a child of ours that listens on address.
type process struct {
	cmd     *exec.Cmd
	address string
	exited  chan struct{}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// startRole runs this program as one of the parts; it is told its address as the first argument.
func startRole(ctx context.Context, role string, args []string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return startProcess(ctx, func(address string) *exec.Cmd {
		return exec.Command(self, append([]string{"role", role, address}, args...)...)
	})
}

// startProcess runs a command on a free port and waits until it listens.
func startProcess(ctx context.Context, command func(address string) *exec.Cmd) (*process, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("finding a free port: %w", err)
	}
	address := l.Addr().String()
	_ = l.Close()
	p := &process{cmd: command(address), address: address, exited: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.cmd.Path, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	for range 100 {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err == nil {
			_ = c.Close()
			return p, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.exited:
			return nil, fmt.Errorf("starting %s: it exited at once", p.cmd.Path)
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		}
	}
	p.stop()
	return nil, fmt.Errorf("starting %s: it does not listen on %s after 5s", p.cmd.Path, address)
}

func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

func (b *bench) config(name, text string, replace ...string) (string, error) {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(text)), 0o600); err != nil {
		return "", fmt.Errorf("writing the configuration of %s: %w", name, err)
	}
	return path, nil
}

const haproxyConfig = `global
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind ADDRESS OPTIONS
  default_backend functions
backend functions
  server f FUNCTION
`

func startHAProxy(ctx context.Context, b *bench, function string) (*process, error) {
	path, err := lookPath("haproxy")
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, func(address string) *exec.Cmd {
		options := map[string]string{"https1": "ssl crt " + b.dir + "/both.pem alpn http/1.1", "h2c": "proto h2", "h2": "ssl crt " + b.dir + "/both.pem alpn h2"}
		file, err := b.config("haproxy.cfg", haproxyConfig, "ADDRESS", address, "FUNCTION", function, "OPTIONS", options[b.protocol.name])
		if err != nil {
			return &exec.Cmd{Path: path, Err: err}
		}
		return exec.Command(path, "-q", "-db", "-f", file)
	})
}

const nginxConfig = `worker_processes auto;
daemon off;
pid DIR/nginx.pid;
error_log stderr crit;
events { worker_connections 20000; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path DIR/body;
  proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi;
  scgi_temp_path DIR/scgi;
  client_body_buffer_size 128k;
  proxy_buffers 8 32k;
  upstream functions { server FUNCTION; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen ADDRESS OPTIONS;
    location / { proxy_pass http://functions; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
`

func startNginx(ctx context.Context, b *bench, function string) (*process, error) {
	path, err := lookPath("nginx")
	if err != nil {
		return nil, err
	}
	return startProcess(ctx, func(address string) *exec.Cmd {
		options := map[string]string{"https1": "ssl", "h2c": "http2", "h2": "ssl http2"}[b.protocol.name]
		if b.protocol.tls {
			options += "; ssl_certificate " + b.dir + "/cert.pem; ssl_certificate_key " + b.dir + "/key.pem"
		}
		file, err := b.config("nginx.conf", nginxConfig, "DIR", b.dir, "ADDRESS", address, "FUNCTION", function, "OPTIONS", options)
		if err != nil {
			return &exec.Cmd{Path: path, Err: err}
		}
		return exec.Command(path, "-e", "stderr", "-p", b.dir, "-c", file)
	})
}
