package harness

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRedisKeepsWhatItAcknowledgedAcrossAKill(t *testing.T) {
	t.Parallel()
	r := Redis(t)
	inc := r.Incarnation()
	r.Do("XADD", "votes", "NOMKSTREAM", "*", "p", "1")
	r.Kill()
	r.Restart()
	if got := r.Do("XLEN", "votes"); got != "2" {
		t.Errorf("entries after kill -9 = %s, want the genesis and one vote", got)
	}
	if got := r.Incarnation(); got != inc {
		t.Errorf("incarnation after kill -9 = %s, want %s", got, inc)
	}
	r.Lose()
	r.Restart()
	if got := r.Incarnation(); got == inc {
		t.Errorf("incarnation after a lost volume is still %s", got)
	}
}

func TestRedisUsersAreConfined(t *testing.T) {
	t.Parallel()
	r := Redis(t)
	if out := r.Do("ACL", "DRYRUN", "capture", "XRANGE", "votes", "-", "+"); !strings.Contains(out, "no permissions") {
		t.Errorf("capture may read: %s", out)
	}
	if out := r.Do("ACL", "DRYRUN", "drain", "XADD", "votes", "*", "p", "1"); !strings.Contains(out, "no permissions") {
		t.Errorf("drain may write: %s", out)
	}
}

func TestPostgresDatabasesAreSeparate(t *testing.T) {
	t.Parallel()
	a, b := Postgres(t), Postgres(t)
	a.SQL("CREATE TABLE x (n int)")
	b.SQL("CREATE TABLE x (n int)")
	if a.Name() == b.Name() {
		t.Errorf("both databases are %s", a.Name())
	}
}

func TestPostgresRecoversFromKill(t *testing.T) {
	t.Parallel()
	d := PostgresAlone(t)
	d.SQL("CREATE TABLE x (n int); INSERT INTO x VALUES (7)")
	d.Kill()
	d.Restart()
	if got := d.SQL("SELECT n FROM x"); got != "7" {
		t.Errorf("after kill -9 the row is %q, want 7", got)
	}
}

// TestGuardianCleansUpAfterAKilledTest runs this test binary as a child that starts servers and dies by SIGKILL.
func TestGuardianCleansUpAfterAKilledTest(t *testing.T) {
	if os.Getenv("HARNESS_CHILD") != "" {
		r := Redis(t)
		Postgres(t)
		dir, _ := root()
		os.Stdout.WriteString(dir + " " + r.Addr() + "\n")
		p, _ := os.FindProcess(os.Getpid())
		_ = p.Kill()
		select {}
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestGuardianCleansUpAfterAKilledTest$")
	cmd.Env = append(os.Environ(), "HARNESS_CHILD=1")
	out, err := cmd.Output()
	if err == nil {
		t.Fatal("the child was meant to be killed")
	}
	dir, _, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !strings.HasPrefix(dir, "/tmp/waggle-") {
		t.Fatalf("the child said %q, want its directory", out)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(deadline); ; {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s is still there", dir)
		}
	}
}

// Tests of the queue prove something only with the rights that the image gives.
func TestQueueRightsAreTheImages(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../images/redis/queue.sh")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(script), "$(digests redis-queue)"+queueRights+"\n") {
		t.Errorf("deploy/images/redis/queue.sh gives the default user other rights than %q", queueRights)
	}
}
