package vote

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waggle/deploy/lab/harness"
)

func TestReadyAgainWhenRedisIsBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	b.redis.Kill()
	b.probe()
	if b.Ready() == nil {
		t.Fatal("ready without Redis")
	}
	b.redis.Restart()
	// Connections from before are dead; each failed try removes one.
	for b.Ready() != nil {
		b.probe()
	}
	for {
		code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j)
		if code == 200 {
			break
		}
		if reply["code"] != "unconfirmed" && reply["code"] != "try_again" {
			t.Fatalf("vote = %d %v", code, reply)
		}
		b.probe()
	}
	if n := len(b.stored()); n != 1 {
		t.Errorf("%d votes stored, want 1", n)
	}
}

// lossy stands between the function and Redis on a socket of its own. While drop is set it swallows the reply to an XADD
// and closes the connection, as a crash after the write does.
type lossy struct {
	path string
	drop atomic.Bool
}

func newLossy(t *testing.T, target string) *lossy {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "vote-")
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{path: filepath.Join(dir, "s")}
	listener, err := net.Listen("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", target)
			if err != nil {
				client.Close()
				continue
			}
			group.Go(func() {
				_, _ = io.Copy(server, client)
				server.Close()
			})
			group.Go(func() {
				l.replies(client, server)
				client.Close()
				server.Close()
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		group.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lossy) replies(client io.Writer, server io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := server.Read(buffer)
		if err != nil || (l.drop.Load() && buffer[0] == '$') {
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func TestALostReplyIsNotConfirmedAndHarmless(t *testing.T) {
	t.Parallel()
	r := harness.Redis(t)
	l := newLossy(t, r.Socket())
	b := setupWith(t, func(c *config) { c.socket = l.path })
	b.redis = r
	b.probe()
	j := b.voter()
	if code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j); code != 200 {
		t.Fatalf("first vote = %d %v", code, reply)
	}
	l.drop.Store(true)
	before := b.tokenOf(j)
	code, reply := b.json(`{"poll":"pets","choice":"dogs"}`, j)
	if code != 503 || reply["code"] != "unconfirmed" || !strings.Contains(reply["message"].(string), "press again") {
		t.Fatalf("vote with its reply lost = %d %v, want 503 unconfirmed", code, reply)
	}
	if got := b.tokenOf(j); got != before {
		t.Errorf("the token moved from %+v to %+v", before, got)
	}
	l.drop.Store(false)
	if code, reply = b.json(`{"poll":"pets","choice":"dogs"}`, j); code != 200 || reply["seq"] != 2.0 {
		t.Fatalf("pressing again = %d %v, want it recorded with the same sequence 2", code, reply)
	}
	stored := b.stored()
	if len(stored) != 3 {
		t.Fatalf("stored %v, want the first vote and the second one twice", stored)
	}
	again, lost := stored[2], stored[1]
	if again[2] != lost[2] || again[3] != lost[3] || again[4] != lost[4] {
		t.Errorf("the two entries %v and %v are not the same vote", lost, again)
	}
}

func TestAHangingRedisIsUnknown(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	b.json(`{"poll":"pets","choice":"cats"}`, j)
	b.redis.Stop()
	code, reply := b.json(`{"poll":"pets","choice":"dogs"}`, j)
	b.redis.Cont()
	if code != 503 || reply["code"] != "unconfirmed" {
		t.Errorf("vote = %d %v, want 503 unconfirmed", code, reply)
	}
}

func TestNothingAcknowledgedIsLostWhenRedisIsKilled(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	const voters, killAt = 16, 300
	var acknowledged sync.Map
	var count atomic.Int64
	reached := make(chan struct{})
	var group sync.WaitGroup
	for range voters {
		group.Go(func() {
			paper, voter := b.papers["pets"], newVoter()
			for seq := int64(1); ; seq++ {
				stored, err := b.capture.add(context.Background(), paper.args, paper.options[0].arg, paper.pseudonym(voter), seq, time.Now())
				if err != nil {
					return
				}
				acknowledged.Store(stored.id, paper.pseudonym(voter))
				if count.Add(1) == killAt {
					close(reached)
				}
			}
		})
	}
	<-reached
	b.redis.Kill()
	group.Wait()
	b.redis.Restart()
	kept := map[string]string{}
	for _, entry := range b.stored() {
		kept[entry[0]] = entry[2]
	}
	acknowledged.Range(func(id, voter any) bool {
		if kept[id.(string)] != voter {
			t.Errorf("entry %v was acknowledged and is %q after the restart", id, kept[id.(string)])
		}
		return true
	})
	if int64(len(kept)) < count.Load() {
		t.Errorf("%d entries, %d acknowledged", len(kept), count.Load())
	}
}
