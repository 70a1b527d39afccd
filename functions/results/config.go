package results

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// config is the function's environment and secrets.
type config struct {
	host     string // postgres_host, default waggle_postgres; a path is the directory of a unix socket; several, comma separated: the primary
	port     uint16 // postgres_port, default 5432
	database string // postgres_database, default waggle
	user     string // postgres_user, default waggle_results: a role that may read some views and nothing else
	sslmode  string // postgres_sslmode, default disable: the overlay between the two is internal
	ca       string // postgres_ca: a file with the authorities that may have signed its certificate; default none
	voteURL  string // vote_url: where the page links to the ballot; default none
	siblings string // siblings: http://name:port/ of all replicas of this function, to ask while Postgres is away; default none
	password string
	polls    []poll
}

const (
	maxSecret = maxPollFile
	// connections is how many look receipts up at once. The count has a connection of its own.
	connections = 2
	// connectTimeout and statementTimeout keep a Postgres that hangs from collecting sessions of ours.
	connectTimeout   = 2 * time.Second
	statementTimeout = "2000" // milliseconds
)

// configFromEnv reads it all; the error names everything that is wrong.
func configFromEnv(getenv func(string) string) (config, error) {
	setting := func(name, fallback string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return fallback
	}
	c := config{
		host: setting("postgres_host", "waggle_postgres"), database: setting("postgres_database", "waggle"),
		user: setting("postgres_user", "waggle_results"), sslmode: setting("postgres_sslmode", "disable"), ca: getenv("postgres_ca"),
		voteURL: getenv("vote_url"), siblings: getenv("siblings"),
	}
	var errs []error
	port, err := strconv.ParseUint(setting("postgres_port", "5432"), 10, 16)
	if err != nil || port == 0 {
		errs = append(errs, fmt.Errorf("postgres_port=%q: must be from 1 to 65535", getenv("postgres_port")))
	}
	c.port = uint16(port)
	switch c.sslmode {
	case "disable", "require", "verify-ca", "verify-full":
	default:
		errs = append(errs, fmt.Errorf("postgres_sslmode=%q: must be disable, require, verify-ca or verify-full", c.sslmode))
	}
	if u, err := url.Parse(c.voteURL); err != nil || (u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("vote_url=%q: must be a path or an http or https address", c.voteURL))
	}
	if u, err := url.Parse(c.siblings); err != nil || c.siblings != "" && (u.Scheme != "http" || u.Hostname() == "" || u.Port() == "") {
		errs = append(errs, fmt.Errorf("siblings=%q: must be http://name:port/", c.siblings))
	}
	directory := setting("secret_mount_path", "/var/openfaas/secrets")
	password, err := readSecret(directory, "postgres-results")
	c.password = strings.TrimRight(password, "\r\n")
	errs = append(errs, err)
	file, err := readSecret(directory, "polls")
	errs = append(errs, err)
	if err == nil {
		c.polls, err = parsePolls([]byte(file))
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// pool describes the connections without making one.
func (c config) pool() (*pgxpool.Config, error) {
	hosts := strings.Split(c.host, ",")
	port := strconv.Itoa(int(c.port))
	parameters := [][2]string{{"host", c.host}, {"port", strings.TrimSuffix(strings.Repeat(port+",", len(hosts)), ",")}, {"sslmode", c.sslmode}}
	if c.ca != "" {
		parameters = append(parameters, [2]string{"sslrootcert", c.ca})
	}
	if len(hosts) > 1 {
		// Not read-write: this role's transactions read on the primary too. A standby tells nobody of a new count.
		parameters = append(parameters, [2]string{"target_session_attrs", "primary"})
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var dsn strings.Builder
	for _, p := range parameters {
		fmt.Fprintf(&dsn, "%s='%s' ", p[0], quote.Replace(p[1]))
	}
	p, err := pgxpool.ParseConfig(dsn.String())
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to Postgres: %w", err)
	}
	conn := p.ConnConfig
	conn.Database, conn.User, conn.Password = c.database, c.user, c.password
	if len(hosts) == 1 {
		conn.Fallbacks = nil
	}
	conn.ConnectTimeout = connectTimeout
	conn.RuntimeParams["application_name"] = "waggle-results"
	conn.RuntimeParams["statement_timeout"] = statementTimeout
	p.MaxConns = connections
	return p, nil
}

func readSecret(directory, name string) (string, error) {
	path := filepath.Join(directory, name)
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	if info.Size() > maxSecret {
		return "", fmt.Errorf("secret %s: %d bytes: at most %d are legal", name, info.Size(), maxSecret)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	if len(strings.TrimSpace(string(data))) == 0 {
		return "", fmt.Errorf("secret %s: is empty", name)
	}
	return string(data), nil
}
