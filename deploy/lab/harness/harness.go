// Package harness gives tests a real Redis and a real Postgres. It is used by tests only.
//
// In: the server binaries of the Debian packages redis-server and postgresql. Out: private child processes on
// loopback and unix sockets, in a directory of their own.
//
// It guarantees that a missing binary fails the test and never skips it. Processes and files are gone when the
// test process is gone, whether it passed, failed or was killed. A guardian process holds the other end of a
// pipe and cleans up when that pipe closes.
package harness

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// deadline bounds every wait for a server to come up or go away; a loaded machine needs a second or two.
const deadline = 60 * time.Second

// guardianScript waits for the pipe on its standard input to close, which the kernel does for a killed process too.
// It then ends what the servers' pid files still name and removes the directory. Postgres gets SIGQUIT first, because
// only a postmaster that ends by itself gives its shared memory back.
const guardianScript = `cat >/dev/null
for sig in QUIT KILL; do
	for f in "$1"/*/pid "$1"/*/data/postmaster.pid; do
		[ -f "$f" ] || continue
		pid=$(head -n 1 "$f")
		[ "$(readlink "/proc/$pid/cwd")" != "${f%/*}" ] || kill -$sig "$pid" 2>/dev/null
	done
	sleep 0.3
done
rm -rf "$1"`

// root is made once per test process and shared by everything the process starts.
var root = sync.OnceValues(func() (dir string, err error) {
	// /tmp and not TMPDIR: a unix socket's path must stay below 108 bytes, and another user must reach it.
	if dir, err = os.MkdirTemp("/tmp", "waggle-"); err != nil {
		return "", fmt.Errorf("making the harness directory: %w", err)
	}
	if err = os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("opening the harness directory: %w", err)
	}
	guardian := exec.Command("/bin/sh", "-c", guardianScript, "guardian", dir)
	// A session of its own, so that Ctrl-C in the terminal does not end the guardian before its work.
	guardian.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := guardian.StdinPipe()
	if err != nil {
		return "", fmt.Errorf("making the guardian's pipe: %w", err)
	}
	if err = guardian.Start(); err != nil {
		return "", fmt.Errorf("starting the guardian: %w", err)
	}
	lifeline = pipe
	return dir, nil
})

// lifeline stays open, and referenced, until the process ends.
var lifeline io.WriteCloser //nolint:unused // it is only ever held

// place makes a fresh directory for one server.
func place(t testing.TB, kind string) string {
	t.Helper()
	base, err := root()
	if err != nil {
		t.Fatalf("preparing the test harness: %v", err)
	}
	dir, err := os.MkdirTemp(base, kind)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatalf("preparing a directory for %s: %v", kind, err)
	}
	return dir
}

// binary finds a program in the given directories, then on PATH, and fails the test naming its Debian package.
func binary(t testing.TB, name, debianPackage string, globs ...string) string {
	t.Helper()
	for _, glob := range globs {
		found, _ := filepath.Glob(filepath.Join(glob, name))
		if len(found) > 0 {
			return found[len(found)-1] // the newest version sorts last
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: this test needs it; install the Debian package %s", name, debianPackage)
	}
	return path
}

// FreePort picks a port below the kernel's ephemeral range. So no outgoing connection takes it while its server
// is down between a kill and a restart.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no free port on 127.0.0.1 between 20000 and 32000")
	return 0
}

// process is a server child that can be killed, frozen and started again.
type process struct {
	name string
	args []string
	dir  string // working directory; also where the output goes
	cred *syscall.Credential
	cmd  *exec.Cmd
	gone chan struct{}
}

func (p *process) start(t testing.TB) {
	t.Helper()
	out, err := os.OpenFile(filepath.Join(p.dir, "output"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("opening the output of %s: %v", p.name, err)
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: p.cred}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = cmd.Wait() // how it ended is in its output; tests end it on purpose
	}()
	p.cmd, p.gone = cmd, gone
}

// CPU is the processor time that the server and its living children have used, to 10 ms.
func (p *process) CPU() time.Duration {
	var ticks int64
	for _, f := range p.family() {
		user, _ := strconv.ParseInt(f.stat[11], 10, 64)
		system, _ := strconv.ParseInt(f.stat[12], 10, 64)
		ticks += user + system
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
}

// member is a process of the server's: itself or a child.
type member struct {
	pid string
	// stat is /proc/<pid>/stat from field 3 of proc(5) on: state, ppid, ... utime is field 14, stime 15.
	stat []string
}

// family is the server and its living children.
func (p *process) family() []member {
	self := strconv.Itoa(p.cmd.Process.Pid)
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	var all []member
	for _, name := range names {
		text, _ := os.ReadFile(name) // a process that has just ended has no file
		_, rest, _ := strings.Cut(string(text), ") ")
		f := member{pid: filepath.Base(filepath.Dir(name)), stat: strings.Fields(rest)}
		if len(f.stat) >= 13 && (f.stat[1] == self || f.pid == self) {
			all = append(all, f)
		}
	}
	return all
}

// signal is a no-op on a process that has ended.
func (p *process) signal(sig syscall.Signal) {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig)
	}
}

// end sends sig and waits until the process is gone.
func (p *process) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	p.signal(syscall.SIGCONT) // a frozen process would not see anything but SIGKILL
	p.signal(sig)
	select {
	case <-p.gone:
	case <-time.After(deadline):
		p.signal(syscall.SIGKILL)
		t.Errorf("%s did not end within %v of signal %v", p.name, deadline, sig)
	}
	p.cmd = nil
}

// await polls ready until it is true; a server that exits first fails the test with its output.
func (p *process) await(t testing.TB, ready func() bool) {
	t.Helper()
	if !p.tryAwait(ready) {
		output, _ := os.ReadFile(filepath.Join(p.dir, "output"))
		t.Fatalf("%s did not come up; it said:\n%s", p.name, output)
	}
}

func (p *process) tryAwait(ready func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(deadline)
	for !ready() {
		select {
		case <-tick.C:
		case <-p.gone:
			return false
		case <-late:
			return false
		}
	}
	return true
}

// FreeAddr is a loopback address, host:port, that nothing listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", FreePort(t))
}
