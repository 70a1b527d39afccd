package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// measureIdle prints what the gateway's memory is with many connections that have had one request each.
func (b *bench) measureIdle(ctx context.Context, function *process) error {
	for _, p := range proxies {
		if p.name != "waggle" || b.only != nil && !b.only[p.name] {
			continue
		}
		proc, err := p.start(ctx, b, function.address)
		if err != nil {
			return err
		}
		defer proc.stop()
		empty := proc.rss()
		for i := range b.idle {
			c, err := b.dialIdle(ctx, proc.address, i)
			if err != nil {
				return fmt.Errorf("opening idle connection %d: %w", i, err)
			}
			defer c.Close()
			ask := once
			if b.protocol.http2 {
				ask = onceHTTP2
			}
			if err := ask(c, p.prefix+"/"); err != nil {
				return fmt.Errorf("using idle connection %d: %w", i, err)
			}
		}
		fmt.Printf("\n%d idle connections of %s: %d MB resident, %d MB before\n", b.idle, b.protocol.name, proc.rss()>>20, empty>>20)
	}
	return nil
}

// dialIdle opens the i-th connection.
func (b *bench) dialIdle(ctx context.Context, address string, i int) (net.Conn, error) {
	// A source address of its own per 10,000 connections keeps below the ports of one.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/10000))}}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil || !b.protocol.tls {
		return c, err
	}
	agree := "http/1.1"
	if b.protocol.http2 {
		agree = "h2"
	}
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{agree}}), nil //nolint:gosec // our own, on loopback
}

func once(c net.Conn, path string) error {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: bench\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// onceHTTP2 is once on a connection that begins with it.
func onceHTTP2(c net.Conn, path string) error {
	frames := http2.NewFramer(c, c)
	var head bytes.Buffer
	fields := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "bench"}, {":path", path}} {
		if err := fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	_, err1 := io.WriteString(c, http2.ClientPreface)
	err2 := frames.WriteSettings()
	err3 := frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true})
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for {
		f, err := frames.ReadFrame()
		if err != nil {
			return err
		}
		if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
			return nil
		}
	}
}
