package books

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeDocker puts a command docker first on the path: it notes its arguments and answers ps for one engine only.
func fakeDocker(t *testing.T, engine string) (log string) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	script := "#!/bin/sh\necho \"$@\" >>'" + log + "'\n" + `case "$*" in
*psql*) cat >/dev/null; printf '` + strings.ReplaceAll(whole, "\n", `\n`) + `';;
*dead*ps*) echo "cannot   connect" >&2; exit 1;;
*` + engine + `*ps*) echo 0123abcd;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

func TestFindAsksEngineAfterEngine(t *testing.T) {
	log := fakeDocker(t, "node2")
	source, err := Find(t.Context(), "waggle_postgres", []string{"tcp://dead:1", "unix:///run/other.sock", "container:node2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), source, 1); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	const ps = "ps --quiet --no-trunc --filter status=running --filter label=com.docker.swarm.service.name=waggle_postgres\n"
	want := "-H tcp://dead:1 " + ps + "-H unix:///run/other.sock " + ps + "exec node2 docker " + ps +
		"exec -i node2 docker exec -i 0123abcd psql -X -q -v ON_ERROR_STOP=1 -d waggle\n"
	if string(text) != want {
		t.Errorf("docker was called with\n%swant\n%s", text, want)
	}
}

func TestFindNamesEveryEngineInVain(t *testing.T) {
	fakeDocker(t, "nowhere")
	_, err := Find(t.Context(), "waggle_postgres", []string{"tcp://dead:1", ""})
	for _, want := range []string{`engine "tcp://dead:1"`, "cannot connect", `engine "" runs no container of service waggle_postgres`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}
