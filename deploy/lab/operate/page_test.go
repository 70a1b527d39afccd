//go:build e2e

package operate

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waggle/deploy/lab/cluster"
)

// step is a part of a test that follows rows of docs/operate.md. It has to run every command of them.
type step struct {
	name string
	rows []string
	do   func(*testing.T)
}

// row is a line of a table of the page, named by its first cell. Or it is an item of a list, named by what is before its colon.
type row struct {
	name     string
	commands []string
}

var (
	rowLine = regexp.MustCompile(`(?m)^(?:\| (.+?) \| (.+?) \|.*|\d+\. ([^:]+): (.*))$`)
	typed   = regexp.MustCompile("`((?:make|docker|git|apt-mark) [^`]+)`")
)

// page reads the rows that have a command.
func page(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	var all []row
	for _, match := range rowLine.FindAllStringSubmatch(string(text), -1) {
		found := row{name: match[1] + match[3]}
		for _, command := range typed.FindAllStringSubmatch(match[2]+match[4], -1) {
			found.commands = append(found.commands, command[1])
		}
		if len(found.commands) > 0 {
			all = append(all, found)
		}
	}
	return all
}

// Every row of the page is tried by a step of the tests, which takes the commands from it.
func TestEveryRowOfThePageIsTried(t *testing.T) {
	l := &lab{}
	named := map[string]bool{}
	for _, s := range append(l.operating(), l.losing()...) {
		for _, name := range s.rows {
			named[name] = true
		}
	}
	rows := page(t)
	if len(rows) < 30 {
		t.Errorf("the page has %d rows with a command; it cannot have been read", len(rows))
	}
	for _, r := range rows {
		if !named[r.name] {
			t.Errorf("no step of a test tries %q: %q", r.name, r.commands)
		}
		delete(named, r.name)
	}
	for name := range named {
		t.Errorf("the page has no row %q", name)
	}
}

// follow does a step; its rows are those that run and at take commands from.
func (l *lab) follow(t *testing.T, s step) bool {
	return t.Run(s.name, func(t *testing.T) {
		l.rows, l.done = nil, map[string]bool{}
		for _, r := range l.page {
			if slices.Contains(s.rows, r.name) {
				l.rows = append(l.rows, r)
			}
		}
		s.do(t)
		for _, r := range l.rows {
			for _, command := range r.commands {
				if !l.done[command] {
					t.Errorf("%s: %q was not tried", r.name, command)
				}
			}
		}
	})
}

// command is the first one of the step's rows that begins so, with the operator's own values. Setting "NODE=node3" puts node3
// where the page has NODE=m2, or the word NODE alone.
func (l *lab) command(t *testing.T, begins string, settings []string) string {
	t.Helper()
	for _, r := range l.rows {
		for _, command := range r.commands {
			if command != begins && !strings.HasPrefix(command, begins+" ") {
				continue
			}
			l.done[command] = true
			for _, setting := range settings {
				command = put(t, command, setting)
			}
			return command
		}
	}
	t.Fatalf("the page has no command %q in %q", begins, l.rows)
	return ""
}

func put(t *testing.T, command, setting string) string {
	t.Helper()
	name, value, _ := strings.Cut(setting, "=")
	given := regexp.MustCompile(`(^| )` + name + `=("[^"]*"|\S+)`)
	alone := regexp.MustCompile(`\b` + name + `\b`)
	switch {
	case given.MatchString(command):
		return given.ReplaceAllString(command, "${1}"+name+"="+value)
	case alone.MatchString(command):
		return alone.ReplaceAllString(command, value)
	}
	t.Fatalf("the page's command %q has no %s", command, name)
	return ""
}

// run is the operator at the deploying machine: a command of the page that has to succeed. It returns what it printed.
func (l *lab) run(t *testing.T, begins string, settings ...string) string {
	t.Helper()
	said, err := l.try(t, begins, settings...)
	if err != nil {
		l.dump(t)
		t.Fatalf("%s: %v", begins, err)
	}
	return said
}

// refused is run for a command that has to fail, with these words.
func (l *lab) refused(t *testing.T, words, begins string, settings ...string) {
	t.Helper()
	if said, err := l.try(t, begins, settings...); err == nil || !strings.Contains(said, words) {
		t.Errorf("%s: %v, lacks %q", begins, err, words)
	}
}

func (l *lab) try(t *testing.T, begins string, settings ...string) (string, error) {
	t.Helper()
	command := l.command(t, begins, settings)
	if inventory := regexp.MustCompile(`INVENTORY=\S+`); inventory.MatchString(command) {
		command = inventory.ReplaceAllString(command, "INVENTORY="+l.file)
	} else if strings.HasPrefix(command, "make ") {
		command += " INVENTORY=" + l.file
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
	cmd.Dir = l.sources
	cmd.Env = append(os.Environ(), "WAGGLE_STATE="+l.home, "VERSION=0.0.0-testbed", "QUEUE_MAXMEMORY=128mb", "INSTALL=no")
	if l.builder != "" {
		cmd.Env = append(cmd.Env, "DOCKER_HOST="+l.builder)
	}
	cmd.Stdin = strings.NewReader("yes\n") // to what purge asks
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var said bytes.Buffer
	cmd.Stdout = io.MultiWriter(&said, writer{t})
	cmd.Stderr = cmd.Stdout
	t.Log(time.Now().Format("15:04:05 ") + command)
	err := cmd.Run()
	return said.String(), err
}

// at is somebody at the console of a node.
func (l *lab) at(t *testing.T, node *cluster.Node, begins string, settings ...string) string {
	t.Helper()
	command := l.command(t, begins, settings)
	out, err := node.Exec(t.Context(), "bash", "-c", command)
	if err != nil {
		l.dump(t)
		t.Fatalf("%s on %s: %v", command, node.Name, err)
	}
	t.Logf("%s on %s: %.2000s", command, node.Name, out)
	return out
}
