package up

import (
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/openfaas/faas-provider/types"

	"waggle/deploy/inventory"
	"waggle/worker/scram"
)

// externalPostgres reports whether the database is somebody else's to run.
func (s *System) externalPostgres() bool { return len(s.Postgres.Hosts) > 0 }

// readPostgresCA reads the file of authorities, and refuses one that no client would start with.
func readPostgresCA(p inventory.Postgres) (string, error) {
	if p.CA == "" {
		return "", nil
	}
	text, err := os.ReadFile(p.CA)
	if err != nil {
		return "", fmt.Errorf("reading postgres: ca: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return "", fmt.Errorf("postgres: ca is %s: must hold a certificate in PEM", p.CA)
	}
	return string(text), nil
}

// planPostgres adds to a deployment where the votes are counted.
func (s *System) planPostgres(d *Deployment, image string) {
	if !s.externalPostgres() {
		d.Layers, d.Env["POSTGRES_IMAGE"] = append(d.Layers, "postgres.yml"), image
		if s.Postgres.Archive != "" {
			d.Layers, d.Env[archiveEnv] = append(d.Layers, archiveLayer), s.Postgres.Archive
		}
		return
	}
	d.Layers = append(d.Layers, "external.yml")
	d.Env["POSTGRES_HOSTS"], d.Env["POSTGRES_PORT"] = strings.Join(s.Postgres.Hosts, ","), strconv.Itoa(s.Postgres.Port)
	d.Env["POSTGRES_SSLMODE"] = s.Postgres.SSLMode
	if s.postgresCA != "" {
		sum := sha256.Sum256([]byte(s.postgresCA))
		d.Layers, d.Env["POSTGRES_CA_VERSION"] = append(d.Layers, "external-ca.yml"), hex.EncodeToString(sum[:6])
		d.Files[postgresCAFile] = s.postgresCA
	}
}

const (
	// postgresCAFile is where external-ca.yml finds the authorities, and the name of the functions' secret is without its end.
	postgresCAFile   = "postgres-ca.pem"
	postgresCASecret = "postgres-ca"
	resultsPassword  = "postgres-results"
	// resultsNetwork leads from the results to our own Postgres. A network without a service of the stack is not made.
	resultsNetwork     = "waggle-results"
	networksAnnotation = "com.waggle.networks"
)

// readsPostgres points a function that has the password for the results at an external Postgres. Every function's own
// network leads outside.
func (s *System) readsPostgres(f *types.FunctionDeployment) {
	reads := false
	for _, secret := range f.Secrets {
		reads = reads || secret == resultsPassword
	}
	if !reads || !s.externalPostgres() {
		return
	}
	env := map[string]string{}
	for name, value := range f.EnvVars {
		env[name] = value
	}
	env["postgres_host"], env["postgres_port"] = strings.Join(s.Postgres.Hosts, ","), strconv.Itoa(s.Postgres.Port)
	env["postgres_sslmode"] = s.Postgres.SSLMode
	if s.postgresCA != "" {
		f.Secrets = append(append([]string(nil), f.Secrets...), postgresCASecret)
		env["postgres_ca"] = "/var/openfaas/secrets/" + postgresCASecret
	}
	f.EnvVars = env
	if f.Annotations != nil {
		annotations := maps.Clone(*f.Annotations)
		others := slices.DeleteFunc(strings.Split(annotations[networksAnnotation], ","), func(n string) bool { return strings.TrimSpace(n) == resultsNetwork })
		if annotations[networksAnnotation] = strings.Join(others, ","); len(others) == 0 {
			delete(annotations, networksAnnotation)
		}
		f.Annotations = &annotations
	}
}

//go:embed external.sql
var externalRoles string

// PrintRoles prints the statements that make the roles and the database of a Postgres that others run. They are for a role
// there that may make both; it need be no superuser. They may be run again. The passwords in them are digests.
// It makes the passwords in the state directory dir, if they are not there.
func PrintRoles(out io.Writer, dir string) error {
	kept, script := state{dir}, externalRoles
	for _, c := range credentials {
		role, isRole := strings.CutPrefix(c.name, "postgres-")
		if !isRole {
			continue
		}
		password, err := kept.read(c.name)
		if err != nil {
			return err
		}
		if password == "" {
			password = c.generate()
			if err := kept.write(c.name, password); err != nil {
				return err
			}
		}
		digest, err := scram.Verifier(password)
		if err != nil {
			return err
		}
		script = strings.ReplaceAll(script, ":'"+role+"_password'", "'"+digest+"'")
	}
	_, err := io.WriteString(out, script)
	return err
}
