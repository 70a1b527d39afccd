package results

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
		"defaults":            {nil, nil, ""},
		"bad port":            {map[string]string{"postgres_port": "x"}, nil, `postgres_port="x"`},
		"port out of range":   {map[string]string{"postgres_port": "65536"}, nil, "from 1 to 65535"},
		"bad sslmode":         {map[string]string{"postgres_sslmode": "prefer"}, nil, `postgres_sslmode="prefer"`},
		"link with a script":  {map[string]string{"vote_url": "javascript:alert(1)"}, nil, "vote_url"},
		"siblings no URL":     {map[string]string{"siblings": "results:8080"}, nil, `siblings="results:8080"`},
		"no password":         {nil, map[string]string{"postgres-results": ""}, "secret postgres-results"},
		"malformed poll file": {nil, map[string]string{"polls": "{}"}, "poll file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			files := map[string]string{"postgres-results": "word\n", "polls": pollFile}
			for secret, text := range test.file {
				files[secret] = text
			}
			for secret, text := range files {
				if err := os.WriteFile(filepath.Join(dir, secret), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c, err := configFromEnv(func(variable string) string {
				if variable == "secret_mount_path" {
					return dir
				}
				return test.env[variable]
			})
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Fatalf("error = %v, want one with %q", err, test.want)
			}
			if err == nil && (c.password != "word" || c.host != "waggle_postgres" || c.port != 5432 || c.database != "waggle" || c.user != "waggle_results") {
				t.Errorf("config = %+v", c)
			}
		})
	}
}
