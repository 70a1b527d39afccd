package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
			// A source address of its own per 10,000 connections keeps below the ports of one.
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/10000))}}
			c, err := d.DialContext(ctx, "tcp", proc.address)
			if err != nil {
				return fmt.Errorf("opening idle connection %d: %w", i, err)
			}
			if b.protocol.tls {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}) //nolint:gosec // our own, on loopback
			}
			defer c.Close()
			if err := once(c, p.prefix+"/"); err != nil {
				return fmt.Errorf("using idle connection %d: %w", i, err)
			}
		}
		fmt.Printf("\n%d idle connections: %d MB resident, %d MB before\n", b.idle, proc.rss()>>20, empty>>20)
	}
	return nil
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
