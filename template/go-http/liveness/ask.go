package liveness

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
)

// HTTP asks by GET, over a connection of its own each time, so that accepting connections is checked as well. Want is
// the status that counts as an answer; 0 takes any. The request is written out, since net/http would treble the size of
// a program that is in every function's image.
func HTTP(address, path string, want int) Ask {
	request := "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nUser-Agent: liveness\r\nConnection: close\r\n\r\n"
	const statusLine = "HTTP/1.1 200"
	return Exchange("tcp", address, request, len(statusLine), func(answer string) error {
		status, err := strconv.Atoi(answer[len("HTTP/1.1 "):len(statusLine)])
		if err != nil || want != 0 && status != want {
			return fmt.Errorf("GET %s was answered %q", path, answer)
		}
		return nil
	})
}

// Exchange sends the request over a connection of its own. It passes the first bytes of the answer, least of them or
// more, to check.
func Exchange(network, address, request string, least int, check func(answer string) error) Ask {
	return func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		if _, err := io.WriteString(conn, request); err != nil {
			return err
		}
		answer := make([]byte, 512)
		n, err := io.ReadAtLeast(conn, answer, least)
		if err != nil {
			return fmt.Errorf("reading the answer of %s: %w", address, err)
		}
		return check(string(answer[:n]))
	}
}
