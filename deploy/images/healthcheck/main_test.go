package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"waggle/deploy/lab/harness"
)

func TestRedisAnswersWithoutAPassword(t *testing.T) {
	t.Parallel()
	empty, published, starting := t.TempDir(), t.TempDir(), t.TempDir()
	server := harness.Redis(t)
	if err := os.Mkdir(filepath.Join(starting, ".starting"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{filepath.Join(published, "redis.sock"), filepath.Join(starting, ".starting", "redis.sock")} {
		if err := os.Symlink(server.Socket(), link); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{published, starting} {
		if err := askRedis(empty, folder)(t.Context()); err != nil {
			t.Errorf("the server in %s: %v", folder, err)
		}
	}
	if err := askRedis(empty)(t.Context()); err == nil || !strings.Contains(err.Error(), empty) {
		t.Errorf("without a socket: %v, want an error that names %s", err, empty)
	}
	server.Kill()
	if err := askRedis(empty, published)(t.Context()); err == nil {
		t.Error("a killed server answers")
	}
}

func TestPostgresAnswersWithoutAPassword(t *testing.T) {
	t.Parallel()
	db := harness.PostgresAlone(t)
	address := net.JoinHostPort(db.Host(), strconv.Itoa(db.Port()))
	if err := askPostgres(address)(t.Context()); err != nil {
		t.Error(err)
	}
	db.Kill()
	if err := askPostgres(address)(t.Context()); err == nil {
		t.Error("a killed server answers")
	}
}

func TestAnUnknownServerIsRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"mysql"}, {"redis", "postgres"}} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), "redis or postgres") {
			t.Errorf("%q: %v, want an error that names what is legal", args, err)
		}
	}
}
