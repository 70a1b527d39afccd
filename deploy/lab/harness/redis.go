package harness

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// RedisPassword is the password of every user of every Redis of the harness.
const RedisPassword = "harness"

// RedisServer is one node's Redis. Its methods fail the test that made it; they are not safe for
// concurrent use.
type RedisServer struct {
	t    testing.TB
	dir  string
	node string
	port int
	// queue: it holds no votes; the default user is on.
	queue bool
	process
}

// Redis starts a private Redis with the settings, users and genesis entry of the product's image, and ends it with
// the test. Its node name is unique within the test process.
func Redis(t testing.TB) *RedisServer { return newRedis(t, false) }

// queueRights are those of the image's default user.
const queueRights = "~async:* -@all +@read +@write +@connection +@transaction -@dangerous +info +eval"

// QueueRedis is Redis for the gateway's queue: the same settings, the rights that the default user has in
// production, RedisPassword, and no stream.
func QueueRedis(t testing.TB) *RedisServer { return newRedis(t, true) }

func newRedis(t testing.TB, queue bool) *RedisServer {
	t.Helper()
	dir := place(t, "redis")
	r := &RedisServer{t: t, dir: dir, node: filepath.Base(dir), queue: queue}
	t.Cleanup(func() {
		r.end(t, syscall.SIGKILL)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the directory of Redis: %v", err)
		}
	})
	r.launch()
	return r
}

// launch starts the server on its port, or on another one as long as it has never run.
func (r *RedisServer) launch() {
	r.t.Helper()
	fresh := r.port == 0
	for range 5 {
		if fresh {
			r.port = FreePort(r.t)
		}
		torn := r.Torn()
		r.process = process{name: "redis-server", dir: r.dir, args: r.command()}
		r.start(r.t)
		if err := os.WriteFile(filepath.Join(r.dir, "pid"), []byte(strconv.Itoa(r.cmd.Process.Pid)), 0o644); err != nil {
			r.t.Fatalf("noting the process of Redis: %v", err)
		}
		if r.tryAwait(r.answers) {
			if !r.queue {
				r.genesis()
				if torn {
					r.Do("XADD", "votes:torn", "*", "node", r.node)
				}
			}
			return
		}
		if r.cmd != nil && !fresh {
			break
		}
	}
	r.await(r.t, r.answers)
}

// Torn reports, as the image does before it starts the server, whether the log ends in the middle of a command.
func (r *RedisServer) Torn() bool {
	manifest := filepath.Join(r.dir, "appendonlydir", "appendonly.aof.manifest")
	if _, err := os.Stat(manifest); err != nil {
		return false
	}
	return exec.Command(binary(r.t, "redis-check-aof", "redis-tools"), manifest).Run() != nil
}

// command mirrors deploy/images/redis; the user admin exists here only, for genesis and for faults.
func (r *RedisServer) command() []string {
	args := []string{
		binary(r.t, "redis-server", "redis-server"),
		"--bind", "127.0.0.1", "--port", strconv.Itoa(r.port), "--unixsocket", r.Socket(), "--unixsocketperm", "770",
		"--dir", r.dir, "--daemonize", "no", "--save", "", "--appendonly", "yes", "--appendfsync", "always",
		"--no-appendfsync-on-rewrite", "no", "--aof-load-truncated", "yes",
		"--maxmemory", "256mb", "--maxmemory-policy", "noeviction",
	}
	standard := "default off"
	if r.queue {
		standard = "default on >" + RedisPassword + " " + queueRights
	}
	for _, rules := range []string{
		standard,
		"capture on >" + RedisPassword + " resetkeys ~votes ~votes:torn %R~votes:inc -@all +xadd +get +ping +hello +auth",
		"copy on >" + RedisPassword + " resetkeys ~copies:* %R~votes:inc -@all +xadd +get +ping +hello +auth",
		"drain on >" + RedisPassword + " resetkeys ~votes ~votes:inc ~votes:torn ~copies:* -@all +xrange +xrevrange +xtrim +xinfo|stream +xlen +scan +get +ping +hello +auth",
		"admin on >" + RedisPassword + " ~* &* +@all",
	} {
		args = append(append(args, "--user"), strings.Fields(rules)...)
	}
	return args
}

func (r *RedisServer) answers() bool {
	out, err := r.cli("PING")
	return err == nil && out == "PONG"
}

// genesis creates the stream as the image's entry point does: once per volume, entry before key.
func (r *RedisServer) genesis() {
	r.t.Helper()
	if r.Do("EXISTS", "votes:inc") == "1" {
		return
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	inc := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	r.Do("XADD", "votes", "0-1", "kind", "genesis", "inc", inc, "node", r.node)
	r.Do("SET", "votes:inc", inc)
}

// Addr is the TCP address, host:port; it survives Restart.
func (r *RedisServer) Addr() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }

// Socket is the path of the unix socket.
func (r *RedisServer) Socket() string { return filepath.Join(r.dir, "redis.sock") }

// Node is the node name in the genesis entry.
func (r *RedisServer) Node() string { return r.node }

// Incarnation is the UUID in votes:inc.
func (r *RedisServer) Incarnation() string {
	r.t.Helper()
	return r.Do("GET", "votes:inc")
}

// Do runs one command as an administrator and returns redis-cli's raw answer; an error reply fails the test.
func (r *RedisServer) Do(args ...string) string {
	r.t.Helper()
	out, err := r.cli(args...)
	if err != nil {
		r.t.Fatalf("asking Redis %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (r *RedisServer) cli(args ...string) (string, error) {
	cmd := exec.Command(binary(r.t, "redis-cli", "redis-tools"),
		append([]string{"-e", "-s", r.Socket(), "--user", "admin", "--no-auth-warning"}, args...)...)
	cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+RedisPassword)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Kill is kill -9; the data stays.
func (r *RedisServer) Kill() {
	r.t.Helper()
	r.end(r.t, syscall.SIGKILL)
}

// Restart kills the server if it runs, and starts it on the same data and port.
func (r *RedisServer) Restart() {
	r.t.Helper()
	r.Kill()
	r.launch()
}

// Lose kills the server and deletes its data, as a lost volume does; Restart then makes a new incarnation.
func (r *RedisServer) Lose() {
	r.t.Helper()
	r.Kill()
	if err := os.RemoveAll(filepath.Join(r.dir, "appendonlydir")); err != nil {
		r.t.Fatalf("deleting the data of Redis: %v", err)
	}
}

// CutLog kills the server and cuts bytes off the end of its append-only file. A disk that lied about fsync does
// that at a power loss.
func (r *RedisServer) CutLog(bytes int64) {
	r.t.Helper()
	r.Kill()
	logs, _ := filepath.Glob(filepath.Join(r.dir, "appendonlydir", "*.incr.aof"))
	if len(logs) != 1 {
		r.t.Fatalf("cutting the log: %d increments, want 1", len(logs))
	}
	info, err := os.Stat(logs[0])
	if err == nil {
		err = os.Truncate(logs[0], info.Size()-bytes)
	}
	if err != nil {
		r.t.Fatalf("cutting the log: %v", err)
	}
}

// Stop freezes the server (SIGSTOP): it holds its connections and answers nothing.
func (r *RedisServer) Stop() { r.signal(syscall.SIGSTOP) }

// Cont lets a stopped server go on.
func (r *RedisServer) Cont() { r.signal(syscall.SIGCONT) }
