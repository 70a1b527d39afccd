package settings

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
)

// Report writes the settings or, if there are any, each mistake on a line of its own. It returns the exit status of a
// command `config check`: 0, or 2 for mistakes.
func Report(out io.Writer, all Settings, mistakes error) (status int) {
	if mistakes != nil {
		fmt.Fprintln(out, mistakes)
		return 2
	}
	fmt.Fprint(out, all)
	return 0
}

// CheckFree says whether a program could listen on a TCP port; host "" is all addresses of this machine. An impossible
// port is [Check]'s to find.
func CheckFree(name, host string, port int) error {
	if port < 1 || port > 65535 {
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return Mistake(name, port, "a free port, but another program listens there")
	case err != nil:
		return Mistake(name, port, "a port that this user may listen on: %v", err)
	}
	return listener.Close()
}
