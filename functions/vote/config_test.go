package vote

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigFromEnv(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  map[string]string
		file map[string]string
		want string // part of the error; empty means success
	}{
		"defaults":              {nil, nil, ""},
		"relative socket":       {map[string]string{"redis_socket": "redis.sock"}, nil, `redis_socket="redis.sock"`},
		"link with a script":    {map[string]string{"results_url": "javascript:alert(1)"}, nil, "results_url"},
		"empty password":        {nil, map[string]string{"redis-capture": "\n"}, "secret redis-capture"},
		"malformed keys":        {nil, map[string]string{"voter-keys": "k1:xyz"}, "voter-keys: line 1"},
		"malformed poll file":   {nil, map[string]string{"polls": "{}"}, "poll file"},
		"poll file of 2 MiB":    {nil, map[string]string{"polls": strings.Repeat(" ", 2<<20)}, "secret polls"},
		"no such mode":          {map[string]string{"copies": "3"}, nil, `copies="3": must be 1, 2 prefer or 2 require`},
		"no port":               {map[string]string{"copies_host": "redis"}, nil, `copies_host="redis"`},
		"no password of copies": {nil, map[string]string{"redis-copies": ""}, "secret redis-copies"},
		"no secrets whatsoever": {map[string]string{"secret_mount_path": "/nonexistent"}, nil, "secret voter-keys"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			files := map[string]string{"redis-capture": "word\n", "redis-copies": "copy word\n", "polls": pollFile, "voter-keys": "poll:" + keyP + "\nk1:" + keyA}
			for secret, text := range test.file {
				files[secret] = text
			}
			for secret, text := range files {
				if err := os.WriteFile(filepath.Join(dir, secret), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := configFromEnv(func(variable string) string {
				if value, ok := test.env[variable]; ok || variable != "secret_mount_path" {
					return value
				}
				return dir
			})
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("error = %v, want one with %q", err, test.want)
			}
			if err == nil && (c.password != "word" || c.socket != "/run/votes/redis.sock" || c.user != "capture" ||
				c.copies != preferTwo || c.copyPassword != "copy word") {
				t.Errorf("config = %+v", c)
			}
		})
	}
}
