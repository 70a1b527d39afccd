package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kelseyhightower/envconfig"
)

// settings are the operator's choices, read from the environment; `make up NAME=value` puts them there.
type settings struct {
	// Port is the gateway's port on each edge node of this machine's Swarm; 1 to 65535.
	Port int `envconfig:"PORT" default:"8080"`
	// TLSCert and TLSKey are files with a certificate and its key, in PEM; together they switch TLS on, at TLSPort of each
	// edge node.
	TLSCert string `envconfig:"TLS_CERT"`
	TLSKey  string `envconfig:"TLS_KEY"`
	TLSPort int    `envconfig:"TLS_PORT" default:"8443"`
	// Registry is where images are pushed to and how their names begin, such as registry.example.com/waggle; empty leaves
	// them on the nodes.
	Registry string `envconfig:"REGISTRY"`
	// Version is what this build is called in its images and programs; empty takes a name from git.
	Version string `envconfig:"VERSION"`
	// Gateways are the addresses of gateways as seen from here, such as http://10.0.0.5; empty: the one on this machine.
	Gateways []string `envconfig:"GATEWAYS"`
	// Preloaded says that something else brings this release's images to every node of the Swarm.
	Preloaded bool `envconfig:"PRELOADED"`
	// PostgresHosts are the servers of a Postgres that others run, and PostgresCA the file with its authorities; empty: ours. An
	// inventory says both itself.
	PostgresHosts []string `envconfig:"POSTGRES_HOSTS"`
	PostgresCA    string   `envconfig:"POSTGRES_CA"`
	// Archive is a directory of this machine, or of the store node of Cluster, for the log of Postgres and base backups; empty: no
	// archive. An inventory says it itself.
	Archive string `envconfig:"ARCHIVE"`
	// Workers is the number of drain workers; 1 to 64.
	Workers int `envconfig:"WORKERS" default:"1"`
	// RedisMaxMemory bounds the queue of each capture node, as Redis writes it; about 120 bytes hold a vote.
	RedisMaxMemory string `envconfig:"REDIS_MAXMEMORY" default:"512mb"`
	// QueueMaxMemory bounds the asynchronous calls that wait on each edge node likewise.
	QueueMaxMemory string `envconfig:"QUEUE_MAXMEMORY" default:"256mb"`
	// MaxUpstreamTimeout is the most that a function's own timeouts raise the time for one of its calls to; 1m to 24h.
	MaxUpstreamTimeout time.Duration `envconfig:"MAX_UPSTREAM_TIMEOUT" default:"10m"`
	// RegistryConfig is a Docker config.json with the credentials of private registries; empty keeps those of earlier runs.
	RegistryConfig string `envconfig:"REGISTRY_CONFIG"`
	// Cluster names the many-node Swarm of node containers to work on; empty means this machine's own engine.
	Cluster string `envconfig:"CLUSTER"`
	// Inventory is the file that describes the machines to work on; empty means this machine's own engine, or Cluster.
	Inventory string `envconfig:"INVENTORY"`
	// Nodes is the size of the cluster that `cluster` creates; 1 to 9.
	Nodes int `envconfig:"NODES" default:"3"`
	// ClusterPort puts the gateway of node i on loopback port ClusterPort+i; 0 takes free ports.
	ClusterPort int `envconfig:"CLUSTER_PORT" default:"8080"`
	// StateDir keeps generated credentials; one folder per target.
	StateDir string `envconfig:"WAGGLE_STATE"`
	// Poll is the slug of the poll that `summary` is for, where empty means all, or `codes`.
	Poll string `envconfig:"POLL"`
	// Count is how many ballot codes `codes` makes, Out the folder for them, or for `backup`, Ballot the ballot's address for the links.
	Count  int    `envconfig:"COUNT" default:"1000"`
	Out    string `envconfig:"OUT"`
	Ballot string `envconfig:"BALLOT"`
	// Summary is the file that `verify` checks, Key the public key of who signed it; empty means this system's own.
	Summary string `envconfig:"SUMMARY"`
	Key     string `envconfig:"KEY"`
	// Offline checks the signature alone, without a recount.
	Offline bool `envconfig:"OFFLINE"`
	// Node is the node that `drain`, `remove` and `retire` work on.
	Node string `envconfig:"NODE"`
	// Secret is what `rotate` changes; "all" is every one.
	Secret string `envconfig:"SECRET"`
	// From is the backup that `restore` takes, What the part of it: state or votes. PassphraseFile is for it and `backup`. At is a
	// moment, as in 2026-11-30T08:20:00Z, for votes from the archive instead.
	From           string `envconfig:"FROM"`
	At             string `envconfig:"AT"`
	What           string `envconfig:"WHAT"`
	PassphraseFile string `envconfig:"PASSPHRASE_FILE"`
	// Votes, Minutes, Peak, Cores and Outage are what `capacity` is asked: package capacity has them.
	Votes   int64         `envconfig:"VOTES"`
	Minutes float64       `envconfig:"MINUTES"`
	Peak    float64       `envconfig:"PEAK"`
	Cores   int           `envconfig:"CORES"`
	Outage  time.Duration `envconfig:"OUTAGE"`
	// Yes answers the question that purge asks.
	Yes bool `envconfig:"YES"`
}

// readSettings reads the environment; a malformed value is an error that names it.
func readSettings() (settings, error) {
	var s settings
	if err := envconfig.Process("", &s); err != nil {
		return s, fmt.Errorf("reading settings: %w", err)
	}
	if s.StateDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return s, fmt.Errorf("finding the home directory (set WAGGLE_STATE instead): %w", err)
		}
		s.StateDir = filepath.Join(home, ".waggle")
	}
	return s, nil
}
