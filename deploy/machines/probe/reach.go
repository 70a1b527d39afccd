package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"waggle/deploy/machines/report"
)

const (
	// answerWithin bounds one try: a round trip between machines of one cluster takes milliseconds.
	answerWithin = 500 * time.Millisecond
	// tries bounds how often a datagram is sent: a single one may be lost on a sound network.
	tries = 4
	// ipHeaders are those of a UDP datagram over IPv4.
	ipHeaders = 28
)

// listen answers on each of Swarm's ports that is free until its input ends. A datagram is answered with its length.
func listen(ctx context.Context, address string) error {
	var listening report.Listening
	for _, port := range report.SwarmPorts {
		at := net.JoinHostPort(address, strconv.Itoa(port.Number))
		closer, err := answerOn(port.Protocol, at)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listening on %s/%s: %w", at, port.Protocol, err)
		}
		defer closer.Close()
		listening.Ports = append(listening.Ports, port)
	}
	if err := print(listening); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

func answerOn(protocol, at string) (io.Closer, error) {
	if protocol == "tcp" {
		listener, err := net.Listen("tcp", at)
		if err != nil {
			return nil, err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		return listener, nil
	}
	conn, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(binary.BigEndian.AppendUint32(nil, uint32(n)), from)
		}
	}()
	return conn, nil
}

// reach tries all ports of all targets at once.
func reach(ctx context.Context, request report.Reach) report.Reached {
	reached := report.Reached{Blocked: map[string][]report.Port{}, Largest: map[string]int{}}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, target := range request.Targets {
		for _, port := range target.Ports {
			wait.Go(func() {
				at := net.JoinHostPort(target.Address, strconv.Itoa(port.Number))
				open, largest := try(ctx, port.Protocol, at, request.MTU)
				mu.Lock()
				defer mu.Unlock()
				if !open {
					reached.Blocked[target.Name] = append(reached.Blocked[target.Name], port)
				} else if port.Number == 4789 && largest < request.MTU {
					reached.Largest[target.Name] = largest
				}
			})
		}
	}
	wait.Wait()
	return reached
}

// try reports whether anything answers, and for UDP the largest overlay packet up to mtu that gets through.
func try(ctx context.Context, protocol, at string, mtu int) (open bool, largest int) {
	if protocol == "tcp" {
		conn, err := (&net.Dialer{Timeout: tries * answerWithin}).DialContext(ctx, "tcp", at)
		if err != nil {
			return false, 0
		}
		conn.Close()
		return true, mtu
	}
	conn, err := net.Dial("udp", at)
	if err != nil {
		return false, 0
	}
	defer conn.Close()
	allowFragments(conn.(*net.UDPConn))
	if !echoes(conn, 64) {
		return false, 0
	}
	if echoes(conn, mtu+report.OverlayOverhead-ipHeaders) {
		return true, mtu
	}
	passes, fails := 64, mtu+report.OverlayOverhead-ipHeaders
	for fails-passes > 1 {
		middle := (passes + fails) / 2
		if echoes(conn, middle) {
			passes = middle
		} else {
			fails = middle
		}
	}
	return true, passes + ipHeaders - report.OverlayOverhead
}

// allowFragments makes packets travel as VXLAN's do, which may be cut into fragments on their way.
func allowFragments(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DONT)
	})
}

// echoes reports whether a datagram with so many bytes arrives.
func echoes(conn net.Conn, size int) bool {
	answer := make([]byte, 8)
	for range tries {
		if _, err := conn.Write(make([]byte, size)); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		_ = conn.SetReadDeadline(time.Now().Add(answerWithin))
		for {
			n, err := conn.Read(answer)
			if err != nil {
				break
			}
			// An answer to an earlier, smaller one may come late.
			if n == 4 && int(binary.BigEndian.Uint32(answer)) == size {
				return true
			}
		}
	}
	return false
}
