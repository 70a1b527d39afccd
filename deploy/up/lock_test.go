package up

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestLocksSayWhoHasThem(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)
	want := holder{"me@here", 42, at}
	if labels := strings.Join(want.labels(), " "); labels != "--label "+ownLabel+" --label com.waggle.holder=me@here --label com.waggle.process=42 --label com.waggle.since=2024-02-03T04:05:06Z" {
		t.Errorf("labels %s", labels)
	}
	if got, err := readHolder("me@here 42 2024-02-03T04:05:06Z"); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, text := range []string{"", "me@here 42", "me@here x 2024-02-03T04:05:06Z", "me@here 42 today"} {
		if _, err := readHolder(text); err == nil {
			t.Errorf("%q names a holder", text)
		}
	}
}

// Only a run of one's own that has ended is taken over.
func TestLocksOfInterruptedRuns(t *testing.T) {
	t.Parallel()
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	now, err := me()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		holder holder
		want   bool
	}{
		"ended":              {holder{name: now.name, process: ended.Process.Pid}, true},
		"this process":       {holder{name: now.name, process: os.Getpid()}, true},
		"runs":               {holder{name: now.name, process: os.Getppid()}, false},
		"on another machine": {holder{name: "x@y", process: ended.Process.Pid}, false},
	} {
		if got := test.holder.gone(now); got != test.want {
			t.Errorf("%s: gone is %v", name, got)
		}
	}
}

func TestALockThatSomebodyHasIsRefused(t *testing.T) {
	fakeDocker(t, map[string]string{"config inspect": "x@elsewhere 7 2024-02-03T04:05:06Z"}) // which cannot make one
	_, err := newTestSystem(t, nil).lock(t.Context())
	if err == nil || !strings.Contains(err.Error(), "x@elsewhere has been deploying since 2024-02-03T04:05:06Z") || !strings.Contains(err.Error(), "docker config rm waggle-deploy-lock") {
		t.Errorf("got %v", err)
	}
}
