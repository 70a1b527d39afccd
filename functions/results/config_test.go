package results

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"waggle/deploy/lab/harness"
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

// authority writes a certificate in PEM, as a file of authorities has it.
func authority(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestServersOfPostgresAreVerified(t *testing.T) {
	t.Parallel()
	c := config{host: "pg1,pg2", port: 5433, database: "waggle", user: "u", password: "p'w", sslmode: "verify-full", ca: authority(t)}
	pool, err := c.pool()
	if err != nil {
		t.Fatal(err)
	}
	conn := pool.ConnConfig
	if conn.Host != "pg1" || conn.Port != 5433 || conn.Password != "p'w" || conn.TLSConfig == nil || conn.TLSConfig.RootCAs == nil || conn.TLSConfig.ServerName != "pg1" || conn.ValidateConnect == nil {
		t.Errorf("the first is %+v", conn.Config)
	}
	if len(conn.Fallbacks) != 1 || conn.Fallbacks[0].Host != "pg2" || conn.Fallbacks[0].Port != 5433 || conn.Fallbacks[0].TLSConfig.ServerName != "pg2" {
		t.Errorf("the others are %+v", conn.Fallbacks)
	}
	c.host, c.sslmode, c.ca = "pg1", "disable", ""
	if pool, err = c.pool(); err != nil || len(pool.ConnConfig.Fallbacks) != 0 || pool.ConnConfig.TLSConfig != nil || pool.ConnConfig.ValidateConnect != nil {
		t.Errorf("one without TLS is %+v, %v", pool, err)
	}
	c.sslmode, c.ca = "verify-full", "/none"
	if _, err := c.pool(); err == nil || !strings.Contains(err.Error(), "/none") {
		t.Errorf("without its file: %v", err)
	}
}

// The first of two hosts does not answer, as a server that failed over.
func TestTheHostThatAnswersIsRead(t *testing.T) {
	t.Parallel()
	d := harness.Postgres(t)
	c := config{host: "127.0.0.2," + d.Host(), port: uint16(d.Port()), database: d.Name(), user: "waggle_results", sslmode: "disable"}
	pool, err := c.pool()
	if err != nil {
		t.Fatal(err)
	}
	connections, err := pgxpool.NewWithConfig(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	defer connections.Close()
	var one int
	if err := connections.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
		t.Error(err)
	}
}
