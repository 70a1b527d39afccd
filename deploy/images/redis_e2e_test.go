//go:build e2e

package images

import (
	"regexp"
	"strings"
	"testing"
)

var redisSecrets = map[string]string{"redis-capture": "capture secret\n", "redis-copies": "copies secret", "redis-drain": "drain'secret"}

type redisBench struct {
	*bench
	data, socket string
}

func setupRedis(t *testing.T) *redisBench {
	t.Helper()
	b := setup(t, Redis, redisSecrets)
	return &redisBench{bench: b, data: b.volume("data"), socket: b.volume("socket")}
}

func (b *redisBench) start(name string, extra ...string) *container {
	b.t.Helper()
	args := append([]string{"--env=NODE=it-node", "--volume=" + b.data + ":/data", "--volume=" + b.socket + ":/run/votes"}, extra...)
	return b.bench.start(name, args)
}

// as asks the server as one of its users; redis-cli prints an error reply like any other.
func as(c *container, user string, command ...string) string {
	c.t.Helper()
	password := strings.TrimSpace(redisSecrets["redis-"+user])
	out, err := c.exec(append([]string{"redis-cli", "-s", "/run/votes/redis.sock", "--user", user, "--pass", password, "--no-auth-warning"}, command...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// awaitPublished waits until a server answers on the socket that functions see, if only that it wants a password. The
// file alone proves nothing: a killed server leaves its own, until the next one clears it away.
func (c *container) awaitPublished() {
	c.t.Helper()
	c.await("an answer on its socket", func() bool {
		_, err := c.exec("redis-cli", "-s", "/run/votes/redis.sock", "ping")
		return err == nil
	})
}

func TestRedisCreatesItsStreamOnceAndKeepsItThroughPowerLoss(t *testing.T) {
	t.Parallel()
	b := setupRedis(t)
	c := b.start("first")
	c.awaitPublished()
	c.awaitHealthy()

	inc := as(c, "drain", "GET", "votes:inc")
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(inc) {
		t.Errorf("votes:inc is %q, want a UUID", inc)
	}
	want := strings.Join([]string{"0-1", "kind", "genesis", "inc", inc, "node", "it-node"}, "\n")
	if got := as(c, "drain", "XRANGE", "votes", "-", "+"); got != want {
		t.Errorf("a new stream holds\n%s\nwant\n%s", got, want)
	}
	id := as(c, "capture", "XADD", "votes", "NOMKSTREAM", "*", "p", "1")
	b.run("kill", "--signal=KILL", c.name)
	b.run("start", c.name)
	c.awaitPublished()
	if got := as(c, "drain", "XRANGE", "votes", "(0-1", "+"); got != id+"\np\n1" {
		t.Errorf("after power loss the stream holds\n%s\nwant the acknowledged entry %s", got, id)
	}
	if got := as(c, "drain", "GET", "votes:inc"); got != inc {
		t.Errorf("the incarnation became %s, was %s", got, inc)
	}

	b.run("stop", "--time=20", c.name)
	if code := b.run("inspect", "--format={{.State.ExitCode}}", c.name); code != "0" {
		t.Errorf("it stopped with exit code %s, want 0, log:\n%s", code, c.log())
	}
	if left := b.sh(b.socket, "find /data -name redis.sock"); left != "" {
		t.Errorf("a stopped server left its socket")
	}
}

func TestRedisUsersMayDoTheirPartAndNothingElse(t *testing.T) {
	t.Parallel()
	b := setupRedis(t)
	c := b.start("only")
	c.awaitPublished()
	tests := map[string]struct {
		user    string
		command []string
		denied  bool
	}{
		"capture adds":               {"capture", []string{"XADD", "votes", "NOMKSTREAM", "*", "p", "1"}, false},
		"capture pings":              {"capture", []string{"PING"}, false},
		"capture reads nothing":      {"capture", []string{"XRANGE", "votes", "-", "+"}, true},
		"capture knows whose":        {"capture", []string{"GET", "votes:inc"}, false},
		"capture has one key":        {"capture", []string{"XADD", "other", "*", "p", "1"}, true},
		"capture deletes nothing":    {"capture", []string{"DEL", "votes"}, true},
		"capture configures nothing": {"capture", []string{"CONFIG", "SET", "appendfsync", "no"}, true},
		"capture makes no batches":   {"capture", []string{"MULTI"}, true},
		"drain reads":                {"drain", []string{"XRANGE", "votes", "-", "+", "COUNT", "1"}, false},
		"drain counts":               {"drain", []string{"XLEN", "votes"}, false},
		"drain inspects":             {"drain", []string{"XINFO", "STREAM", "votes"}, false},
		"drain trims":                {"drain", []string{"XTRIM", "votes", "MINID", "0-1"}, false},
		"drain lists":                {"drain", []string{"SCAN", "0", "MATCH", "copies:*"}, false},
		"drain pings":                {"drain", []string{"PING"}, false},
		"drain adds nothing":         {"drain", []string{"XADD", "votes", "*", "p", "1"}, true},
		"drain sets nothing":         {"drain", []string{"SET", "votes:inc", "x"}, true},
		"drain shuts nothing down":   {"drain", []string{"SHUTDOWN"}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := as(c, test.user, test.command...)
			if denied := strings.HasPrefix(got, "NOPERM"); denied != test.denied || strings.HasPrefix(got, "ERR") {
				t.Errorf("%s got %q, want denied=%v", strings.Join(test.command, " "), got, test.denied)
			}
		})
	}
	t.Run("without a user nothing works", func(t *testing.T) {
		got, err := c.exec("redis-cli", "-s", "/run/votes/redis.sock", "XLEN", "votes")
		if err != nil || !strings.HasPrefix(got, "NOAUTH") {
			t.Errorf("got %q (%v), want NOAUTH", got, err)
		}
	})
	t.Run("a function's user reaches the socket on a read-only mount", func(t *testing.T) {
		got := b.run("run", "--rm", "--label="+testLabel, "--network=none", "--user=12000:12000", "--volume="+b.socket+":/run/votes:ro",
			"--entrypoint=redis-cli", b.image, "-s", "/run/votes/redis.sock", "PING")
		assertContains(t, "the answer", got, "NOAUTH")
	})
	t.Run("another user does not", func(t *testing.T) {
		got, err := b.engine.Run(t.Context(), "run", "--rm", "--label="+testLabel, "--network=none", "--user=12001:12001", "--cap-drop=ALL",
			"--volume="+b.socket+":/run/votes:ro", "--entrypoint=redis-cli", b.image, "-s", "/run/votes/redis.sock", "PING")
		if err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("got %q (%v), want permission denied", got, err)
		}
	})
	t.Run("no password is in the log or the container's description", func(t *testing.T) {
		text := c.log() + b.run("inspect", c.name)
		for name, secret := range redisSecrets {
			if strings.Contains(text, strings.TrimSpace(secret)) {
				t.Errorf("%s can be read there", name)
			}
		}
	})
}

func TestRedisNeverRunsTwiceOnOneVolume(t *testing.T) {
	t.Parallel()
	b := setupRedis(t)
	first := b.start("first")
	first.awaitPublished()
	assertContains(t, "the second server's log", b.start("second").refused(), "another server holds /data/.lock")
	// The second must not have taken the socket away.
	as(first, "capture", "XADD", "votes", "NOMKSTREAM", "*", "p", "1")
}

// A volume that had votes and lost them is an incident for a human, never a reason to begin anew.
func TestRedisRefusesDamagedVolumes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ damage, want string }{
		"append-only file removed":  {"rm -r /data/redis/appendonlydir", "no append-only file"},
		"append-only file emptied":  {"for f in /data/redis/appendonlydir/*.incr.aof; do : >$f; done", "key votes:inc is"},
		"another volume's file":     {"echo 00000000-0000-0000-0000-000000000000 >/data/redis/incarnation", "belongs to incarnation 00000000"},
		"note removed":              {"rm /data/redis/incarnation", "no incarnation note"},
		"votes moved aside by hand": {"mv /data/redis /data/redis.old", "/data holds redis.old but no votes directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupRedis(t)
			c := b.start("first")
			c.awaitPublished()
			b.run("stop", c.name)
			b.sh(b.data, test.damage)
			b.run("start", c.name)
			assertContains(t, "the log", c.refused(), test.want)
			if left := b.sh(b.socket, "find /data -maxdepth 1 -name redis.sock"); left != "" {
				t.Error("functions were given a socket")
			}
		})
	}
}

func TestRedisFinishesAnInterruptedFirstStart(t *testing.T) {
	t.Parallel()
	b := setupRedis(t)
	// What a kill between the first server's start and the rename leaves.
	b.sh(b.data, "mkdir -p /data/redis.new/appendonlydir; echo rubbish >/data/redis.new/appendonlydir/appendonly.aof.manifest; chown -R 12003:12000 /data")
	c := b.start("first")
	c.awaitPublished()
	assertContains(t, "the genesis", as(c, "drain", "XRANGE", "votes", "-", "+"), "genesis")
}

func TestRedisRefusesUnsafeSettings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args, command []string
		want          string
	}{
		"an argument":    {command: []string{"--appendfsync", "everysec"}, want: `arguments "--appendfsync everysec" are not accepted`},
		"no memory":      {args: []string{"--env=REDIS_MAXMEMORY=1mb"}, want: `REDIS_MAXMEMORY="1mb" must be 16mb to 999999mb`},
		"unlimited":      {args: []string{"--env=REDIS_MAXMEMORY=0"}, want: `REDIS_MAXMEMORY="0" must be`},
		"an option in a": {args: []string{"--env=REDIS_MAXMEMORY=64mb\nappendonly no"}, want: "must be 16mb"},
		"no node":        {args: []string{"--env=NODE="}, want: `NODE="" must name the node`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setupRedis(t)
			args := append([]string{"--env=NODE=it-node", "--volume=" + b.data + ":/data", "--volume=" + b.socket + ":/run/votes"}, test.args...)
			assertContains(t, "the log", b.bench.start("only", args, test.command...).refused(), test.want)
		})
	}
	t.Run("no secret", func(t *testing.T) {
		t.Parallel()
		b := setupRedis(t)
		b.secret("redis-drain", "")
		assertContains(t, "the log", b.start("only").refused(), "secret redis-drain is missing or empty")
	})
}

func TestARedisThatIsFullIsHealthy(t *testing.T) {
	t.Parallel()
	b := setupRedis(t)
	c := b.start("only", "--env=REDIS_MAXMEMORY=16mb")
	c.awaitPublished()

	// Full: each write is refused, and that is an answer.
	c.await("a refusal for want of memory", func() bool {
		_, err := c.exec("sh", "-c", `head -c 1000000 /dev/zero | tr '\0' x >/tmp/big
			for i in 1 2 3 4; do REDISCLI_AUTH='capture secret' redis-cli -s /run/votes/redis.sock --user capture -x xadd votes '*' p </tmp/big; done | grep -q OOM`)
		return err == nil
	})
	c.awaitHealthy()
}

// While a password is exchanged for another, clients with either are served: none is refused on the way.
func TestRedisTakesTwoPasswords(t *testing.T) {
	t.Parallel()
	b := setupRedis(t)
	b.secret("redis-drain", "drain'secret\nnext one\n")
	c := b.start("two")
	c.awaitPublished()
	inc := as(c, "drain", "GET", "votes:inc")
	for password, want := range map[string]string{"next one": inc, "next": "", "drain'secret\nnext one": ""} {
		got, err := c.exec("redis-cli", "-s", "/run/votes/redis.sock", "--user", "drain", "--pass", password, "--no-auth-warning", "GET", "votes:inc")
		if err != nil {
			t.Fatal(err)
		}
		if want != "" && got != want || want == "" && !strings.Contains(got, "NOAUTH") && !strings.Contains(got, "WRONGPASS") {
			t.Errorf("password %q is answered by %q", password, got)
		}
	}
}
