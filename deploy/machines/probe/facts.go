package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"waggle/deploy/machines/report"
)

const engineSocket = "/var/run/docker.sock"

var engine = http.Client{
	Timeout: time.Minute,
	Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", engineSocket)
	}},
}

func facts(ctx context.Context) report.Facts {
	found := report.Facts{Architecture: runtime.GOARCH, Routes: routes()}
	found.HostName, _ = os.Hostname()
	addresses, _ := net.InterfaceAddrs()
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			found.Addresses = append(found.Addresses, prefix.Addr().String())
		}
	}
	var info struct {
		ServerVersion, DockerRootDir string
		Swarm                        report.Swarm
	}
	if err := ask(ctx, http.MethodGet, "/info", nil, &info); err != nil {
		found.EngineError = err.Error()
	} else {
		found.EngineVersion, found.Swarm = info.ServerVersion, info.Swarm
		found.FreeBytes = free(info.DockerRootDir)
	}
	found.Clock = time.Now()
	return found
}

// free is the room below a directory, or below its nearest parent that this user can see.
func free(dir string) uint64 {
	for {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err == nil {
			return fs.Bavail * uint64(fs.Bsize)
		}
		cut := strings.LastIndexByte(dir, '/')
		if cut <= 0 {
			return 0
		}
		dir = dir[:cut]
	}
}

// routes reads the kernel's IPv4 table, proc_net_route(5): the second column is a network, the eighth its mask, each
// in hexadecimal and the machine's byte order.
func routes() []string {
	file, err := os.Open("/proc/net/route")
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	var found []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 {
			continue
		}
		network, err1 := hex.DecodeString(fields[1])
		mask, err2 := hex.DecodeString(fields[7])
		if err1 != nil || err2 != nil || len(network) != 4 || len(mask) != 4 {
			continue
		}
		length := bits.OnesCount32(binary.BigEndian.Uint32(mask))
		if length == 0 {
			continue
		}
		var address [4]byte
		binary.NativeEndian.PutUint32(address[:], binary.BigEndian.Uint32(network))
		found = append(found, netip.PrefixFrom(netip.AddrFrom4(address), length).String())
	}
	return found
}

// ask calls the engine; answer may be nil.
func ask(ctx context.Context, method, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := engine.Do(request)
	if err != nil {
		return fmt.Errorf("asking the engine at %s: %w", engineSocket, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the engine's answer: %w", err)
	}
	if response.StatusCode >= 300 {
		var complaint struct{ Message string }
		_ = json.Unmarshal(content, &complaint)
		return fmt.Errorf("the engine answers %s: %s", response.Status, complaint.Message)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(content, answer)
}

func join(ctx context.Context, request report.Join) error {
	return ask(ctx, http.MethodPost, "/swarm/join", request, nil)
}
