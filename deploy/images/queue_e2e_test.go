//go:build e2e

package images

import (
	"strings"
	"testing"
)

const queuePassword = "queue'secret"

type queueBench struct {
	*bench
	data, socket string
}

func setupQueue(t *testing.T) *queueBench {
	t.Helper()
	b := setup(t, Redis, map[string]string{"redis-queue": queuePassword + "\n"})
	return &queueBench{bench: b, data: b.volume("data"), socket: b.volume("socket")}
}

func (b *queueBench) start(name string, extra ...string) *container {
	b.t.Helper()
	args := []string{"--volume=" + b.data + ":/data", "--volume=" + b.socket + ":/run/queue", "--entrypoint=/usr/local/bin/queue.sh", "--user=12003:12001"}
	return b.bench.start(name, append(args, extra...))
}

// asGateway asks the queue's server with its password.
func asGateway(c *container, command ...string) string {
	c.t.Helper()
	out, err := c.exec(append([]string{"redis-cli", "-s", "/run/queue/redis.sock", "--pass", queuePassword, "--no-auth-warning"}, command...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *container) awaitQueue() {
	c.t.Helper()
	c.await("an answer on its socket", func() bool {
		_, err := c.exec("redis-cli", "-s", "/run/queue/redis.sock", "ping")
		return err == nil
	})
}

func TestQueueKeepsCallsThroughPowerLoss(t *testing.T) {
	t.Parallel()
	b := setupQueue(t)
	c := b.start("first", "--env=REDIS_MAXMEMORY=64mb")
	c.awaitQueue()
	c.awaitHealthy()
	asGateway(c, "HSET", "async:calls", "c", "record")
	asGateway(c, "ZADD", "async:due", "1", "c")
	// Redis 7.0 drops transactions of its log on restart when the default user is off; here it is on.
	if _, err := c.exec("sh", "-c", `printf 'MULTI\nSET async:owner me\nEXEC\n' | REDISCLI_AUTH="`+queuePassword+`" redis-cli -e -s /run/queue/redis.sock`); err != nil {
		t.Fatal(err)
	}
	b.run("kill", "--signal=KILL", c.name)
	b.run("start", c.name)
	c.awaitQueue()
	if got := asGateway(c, "HGET", "async:calls", "c") + asGateway(c, "ZSCORE", "async:due", "c") + asGateway(c, "GET", "async:owner"); got != "record1me" {
		t.Errorf("after power loss it holds %q", got)
	}
	b.run("stop", "--time=20", c.name)
	if code := b.run("inspect", "--format={{.State.ExitCode}}", c.name); code != "0" {
		t.Errorf("it stopped with exit code %s, want 0, log:\n%s", code, c.log())
	}
	if left := b.sh(b.socket, "find /data -name redis.sock"); left != "" {
		t.Errorf("a stopped server left its socket")
	}
}

func TestQueueIsTheGatewaysAlone(t *testing.T) {
	t.Parallel()
	b := setupQueue(t)
	c := b.start("only")
	c.awaitQueue()
	for _, ask := range []struct{ command, want string }{ // in this order: what the first one sets, the second finds
		{"HSET async:calls c x", "1"}, {"HSTRLEN async:calls c", "1"}, {"ZADD async:due XX 1 c", "0"}, {"ZSCAN async:due 0", "0"}, {"PING", "PONG"},
		{"SET other x", "NOPERM"}, {"FLUSHALL", "NOPERM"}, {"CONFIG SET appendfsync no", "NOPERM"}, {"KEYS *", "NOPERM"}, {"SHUTDOWN", "NOPERM"}, {"SCRIPT FLUSH", "NOPERM"},
		{"EVAL return(redis.call('HLEN',KEYS[1])) 1 async:calls", "1"}, {"EVAL return(redis.call('SET',KEYS[1],'x')) 1 other", "NOPERM"},
	} {
		if got := asGateway(c, strings.Fields(ask.command)...); !strings.HasPrefix(got, ask.want) {
			t.Errorf("%s answers %q, want %s", ask.command, got, ask.want)
		}
	}
	if got := asGateway(c, "INFO", "memory"); !strings.Contains(got, "maxmemory:") {
		t.Errorf("INFO memory answers %q", got)
	}
	if got, err := c.exec("redis-cli", "-s", "/run/queue/redis.sock", "HGET", "async:calls", "c"); err != nil || !strings.HasPrefix(got, "NOAUTH") {
		t.Errorf("without the password: %q, %v", got, err)
	}
	ask := func(user string) (string, error) {
		return b.engine.Run(t.Context(), "run", "--rm", "--label="+testLabel, "--network=none", "--user="+user, "--cap-drop=ALL",
			"--volume="+b.socket+":/run/queue:ro", "--entrypoint=redis-cli", b.image, "-s", "/run/queue/redis.sock", "PING")
	}
	if got, err := ask("12001:12001"); err != nil || !strings.Contains(got, "NOAUTH") {
		t.Errorf("the gateway's user gets %q, %v", got, err)
	}
	for _, user := range []string{"12000:12000", "12002:12002"} {
		if got, err := ask(user); err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("%s gets %q (%v), want permission denied", user, got, err)
		}
	}
	if text := c.log() + b.run("inspect", c.name); strings.Contains(text, queuePassword) {
		t.Error("the password can be read in the log or the container's description")
	}
	assertContains(t, "the second server's log", b.start("second").refused(), "another server holds /data/.lock")
	asGateway(c, "PING") // the second has not taken the socket away
}

func TestQueueRefusesWhatIsUnsafe(t *testing.T) {
	t.Parallel()
	b := setupQueue(t)
	c := b.start("first")
	c.awaitQueue()
	b.run("stop", c.name)
	b.sh(b.data, "mv /data/redis/appendonlydir /data/redis/moved")
	b.run("start", c.name)
	assertContains(t, "the log", c.refused(), "no append-only file")
	b.sh(b.data, "mv /data/redis/moved /data/redis/appendonlydir")
	assertContains(t, "the log", b.start("memory", "--env=REDIS_MAXMEMORY=0").refused(), "must be 16mb")
	b.secret("redis-queue", "")
	assertContains(t, "the log", b.start("secret").refused(), "secret redis-queue is missing or empty")
}
