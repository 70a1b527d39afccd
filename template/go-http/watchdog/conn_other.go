//go:build !linux

package watchdog

import "net"

// listener is for a developer's machine; images are Linux's.
type listener struct{ net.Listener }
