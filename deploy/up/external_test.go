package up

import (
	"bytes"
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/inventory"
	"waggle/deploy/lab/harness"
	"waggle/worker/store"
)

// A managed Postgres gives nobody a superuser.
func TestRolesOfAnExternalPostgresNeedNoSuperuser(t *testing.T) {
	t.Parallel()
	db := harness.PostgresAlone(t)
	db.SQL(`ALTER DATABASE ` + db.Name() + ` OWNER TO postgres`)
	db.SQL(`DROP OWNED BY waggle_admin, waggle_drain, waggle_results`)
	db.SQL(`DROP ROLE waggle_admin, waggle_drain, waggle_results; CREATE ROLE landlord LOGIN CREATEROLE CREATEDB`)
	dir := t.TempDir()
	for range 2 { // it may be run again
		var script bytes.Buffer
		if err := PrintRoles(&script, dir); err != nil {
			t.Fatal(err)
		}
		psql := exec.Command("psql", "-X", "-q", strings.Replace(db.DSN("landlord"), "dbname="+db.Name(), "dbname=postgres", 1))
		psql.Stdin = &script
		if out, err := psql.CombinedOutput(); err != nil {
			t.Fatalf("making the roles: %v: %s", err, out)
		}
	}
	password, err := (state{dir}).read("postgres-admin")
	if err != nil || len(password) != 48 {
		t.Fatalf("the password is %q, %v", password, err)
	}
	dsn := fmt.Sprintf("%s password=%s", strings.Replace(db.DSN("waggle_admin"), "dbname="+db.Name(), "dbname=waggle", 1), password)
	if n, err := store.Migrate(t.Context(), dsn); err != nil || n == 0 {
		t.Errorf("%d migrations, %v", n, err)
	}
	for _, name := range []string{"admin", "drain", "results"} {
		password, err := (state{dir}).read("postgres-" + name)
		if err != nil {
			t.Fatal(err)
		}
		stored := db.SQL(`SELECT rolpassword FROM pg_authid WHERE rolname = 'waggle_` + name + `'`)
		if !strings.HasPrefix(stored, "SCRAM-SHA-256$4096:") || strings.Contains(stored, password) {
			t.Errorf("waggle_%s has %q", name, stored)
		}
	}
}

func TestAnExternalPostgresIsInEveryPartThatNeedsIt(t *testing.T) {
	t.Parallel()
	s := newTestSystem(t, func(c *Config) {
		c.Postgres = inventory.Postgres{Hosts: []string{"pg1", "pg2"}, Port: 5433, SSLMode: "verify-full"}
	})
	s.postgresCA = "a certificate"
	d := Deployment{Layers: s.layers(), Env: map[string]string{}, Files: map[string]string{}}
	s.planPostgres(&d, "localhost/waggle/postgres:0123456789ab")
	if strings.Join(d.Layers, " ") != "stack.yml external.yml external-ca.yml" || d.Env["POSTGRES_HOSTS"] != "pg1,pg2" || d.Files[postgresCAFile] != "a certificate" || d.Env["POSTGRES_IMAGE"] != "" {
		t.Errorf("the stack is %v with %v", d.Layers, d.Env)
	}
	results := types.FunctionDeployment{Secrets: []string{"postgres-results", "polls"}, EnvVars: map[string]string{"postgres_host": "waggle_postgres"},
		Annotations: &map[string]string{"com.waggle.networks": "waggle-results", "topic": "x"}}
	given, annotations := results.EnvVars, *results.Annotations
	s.readsPostgres(&results)
	if results.EnvVars["postgres_host"] != "pg1,pg2" || results.EnvVars["postgres_ca"] != "/var/openfaas/secrets/postgres-ca" || strings.Join(results.Secrets, " ") != "postgres-results polls postgres-ca" {
		t.Errorf("results has %v and %v", results.EnvVars, results.Secrets)
	}
	if given["postgres_host"] != "waggle_postgres" || annotations["com.waggle.networks"] != "waggle-results" {
		t.Error("what the stack file says was changed")
	}
	if !maps.Equal(*results.Annotations, map[string]string{"topic": "x"}) {
		t.Errorf("results has %v: there is no network to a Postgres of ours", *results.Annotations)
	}
	other := types.FunctionDeployment{Secrets: []string{"polls"}}
	if s.readsPostgres(&other); other.EnvVars != nil {
		t.Errorf("another function has %v", other.EnvVars)
	}

	ours := newTestSystem(t, nil)
	d = Deployment{Layers: ours.layers(), Env: map[string]string{}}
	if ours.planPostgres(&d, "image"); strings.Join(d.Layers, " ") != "stack.yml postgres.yml" || d.Env["POSTGRES_IMAGE"] != "image" {
		t.Errorf("with our own Postgres the stack is %v with %v", d.Layers, d.Env)
	}
	ours.Postgres.Archive = "/mnt/archive"
	d = Deployment{Layers: ours.layers(), Env: map[string]string{}}
	if ours.planPostgres(&d, "image"); strings.Join(d.Layers, " ") != "stack.yml postgres.yml archive.yml" || d.Env[archiveEnv] != "/mnt/archive" {
		t.Errorf("with an archive the stack is %v with %v", d.Layers, d.Env)
	}
}
