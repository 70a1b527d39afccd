// Package inventory reads cluster.yml, the one file that describes the machines of a cluster.
//
// In: the file an operator wrote. Out: an [Inventory] whose every value is legal, or one error that names each value
// that is not, with what is. It asks no machine: whether the file is true is for package machines to find out.
package inventory

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Role is what a machine does.
type Role string

// The roles. Each must be on one machine at least. An edge machine runs a gateway, a capture machine takes votes, a
// worker machine counts them, and the store machine holds Postgres.
const (
	Manager Role = "manager"
	Edge    Role = "edge"
	Capture Role = "capture"
	Worker  Role = "worker"
	Store   Role = "store"
)

// Roles are all of them, in the order in which messages list them.
var Roles = []Role{Manager, Edge, Capture, Worker, Store}

// Label is the node label by which the stack finds machines of this role. Managers have none: Swarm knows them.
func (r Role) Label() string { return "waggle." + string(r) }

// DrainingLabel is on a capture machine that takes no votes any more; its Redis stays until they are counted.
const DrainingLabel = "waggle.draining"

// Inventory describes a cluster.
type Inventory struct {
	// Name tells this cluster from others of the same operator: 1 to 30 characters of a-z, 0-9 and '-'; default waggle.
	// Passwords and keys are kept under it.
	Name string `yaml:"name"`
	// KnownHosts is a file, relative to the inventory, with the host keys of machines that have no HostKey here. Keys
	// are by the address in a machine's SSH, as ssh-keyscan prints them. Empty means the operator's own known_hosts
	// file.
	KnownHosts string `yaml:"known_hosts,omitempty"`
	// Machines are its members, in the order of the file. The first manager starts the Swarm.
	Machines []Machine `yaml:"machines"`
	// Edge says how the gateways are reached.
	Edge EdgeConfig `yaml:"edge,omitempty"`
	// Network says how the machines' overlays are made.
	Network Network `yaml:"network,omitempty"`
	// Capture bounds the queue of each capture machine.
	Capture CaptureConfig `yaml:"capture,omitempty"`
	// Postgres names a database that others run; without hosts it is ours, on the store machine, and may have an archive.
	Postgres Postgres `yaml:"postgres,omitempty"`
	// Workers is the number of drain workers in all, 1 to 64; default 1.
	Workers int `yaml:"workers,omitempty"`
}

// Machine is one member of the cluster.
type Machine struct {
	// Name is the machine's host name, by which the Swarm knows it.
	Name string `yaml:"name"`
	// SSH is user@host or user@host:port. The user must be root or in group docker.
	SSH string `yaml:"ssh"`
	// HostKey is the machine's public key, as in a .pub file; empty: KnownHosts has to know the machine.
	HostKey string `yaml:"host_key,omitempty"`
	// IdentityFile is the private key to log in with, relative to the inventory; empty: what ssh finds by itself.
	IdentityFile string `yaml:"identity_file,omitempty"`
	// Address is the IP address by which the other machines reach this one.
	Address string `yaml:"address"`
	// Roles are what it does; at least one.
	Roles []Role `yaml:"roles"`
}

// Has reports whether the machine has the role.
func (m Machine) Has(role Role) bool { return slices.Contains(m.Roles, role) }

// EdgeConfig says how the gateways are reached.
type EdgeConfig struct {
	// Port is the port of every gateway, 1 to 65535; default 8080.
	Port int `yaml:"port"`
	// TLSPort is the port of TLS likewise; default 8443.
	TLSPort int `yaml:"tls_port,omitempty"`
	// TLS names a certificate and its key, relative to the inventory; both empty: no TLS.
	TLS TLS `yaml:"tls,omitempty"`
}

// TLS names two files in PEM.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Network says how the overlays are made.
type Network struct {
	// Pool is the range from which the Swarm takes its networks, each a /20; default 10.200.0.0/13. It is fixed once
	// the Swarm exists.
	Pool string `yaml:"pool,omitempty"`
	// MTU is the largest packet on an overlay, 576 to 65485; default 1450, which fits a path of 1500 bytes.
	MTU int `yaml:"mtu,omitempty"`
	// Encrypted asks for IPsec between the machines. The engine's own encryption costs much of the throughput.
	Encrypted bool `yaml:"encrypted,omitempty"`
}

// CaptureConfig bounds the queue of each capture machine.
type CaptureConfig struct {
	// MaxMemory is Redis's, "16mb" to "999999mb"; default 512mb. About 120 bytes hold a vote.
	MaxMemory string `yaml:"maxmemory,omitempty"`
}

// Postgres names the servers of a database that others run, or the archive of ours.
type Postgres struct {
	// Hosts are its names or addresses, of which the first that takes writes is used; empty: Postgres is ours.
	Hosts []string `yaml:"hosts,omitempty"`
	// Port is that of every host; default 5432.
	Port int `yaml:"port,omitempty"`
	// SSLMode is require, verify-ca or verify-full, the default, or disable for a network of one's own.
	SSLMode string `yaml:"sslmode,omitempty"`
	// CA is a file in PEM, relative to the inventory, with the authorities that may have signed its certificate; the verifying
	// modes need it.
	CA string `yaml:"ca,omitempty"`
	// Archive is a directory of the store machine, which should be another machine's disk. It gets the log of our Postgres and
	// base backups, so that votes can be restored as of any moment; empty: no archive.
	Archive string `yaml:"archive,omitempty"`
}

// Read reads and checks an inventory. Paths in the result are absolute. The error names every value that is not legal,
// one a line.
func Read(path string) (*Inventory, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the inventory: %w", err)
	}
	inventory, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("inventory %s:\n%w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("finding the inventory's directory: %w", err)
	}
	inventory.resolve(dir)
	return inventory, nil
}

func parse(text []byte) (*Inventory, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	// A misspelt key must not be dropped in silence.
	decoder.KnownFields(true)
	var inventory Inventory
	if err := decoder.Decode(&inventory); err != nil {
		return nil, err
	}
	inventory.setDefaults()
	return &inventory, errors.Join(inventory.problems()...)
}

func (i *Inventory) setDefaults() {
	i.Name = cmp.Or(i.Name, "waggle")
	i.Edge.Port = cmp.Or(i.Edge.Port, 8080)
	i.Edge.TLSPort = cmp.Or(i.Edge.TLSPort, 8443)
	i.Network.Pool = cmp.Or(i.Network.Pool, "10.200.0.0/13")
	i.Network.MTU = cmp.Or(i.Network.MTU, 1450)
	i.Capture.MaxMemory = cmp.Or(i.Capture.MaxMemory, "512mb")
	i.Workers = cmp.Or(i.Workers, 1)
	i.Postgres.setDefaults()
}

func (p *Postgres) setDefaults() {
	if len(p.Hosts) > 0 {
		p.Port = cmp.Or(p.Port, 5432)
		p.SSLMode = cmp.Or(p.SSLMode, "verify-full")
	}
}

// Database describes the Postgres of others at these hosts, for who has no inventory. The file ca has the authorities that
// its certificate may be of. Without hosts Postgres is ours, and archive is its archive.
func Database(hosts []string, ca, archive string) (Postgres, error) {
	p := Postgres{Hosts: hosts, CA: ca, Archive: archive}
	p.setDefaults()
	return p, errors.Join(p.problems()...)
}

// resolve makes the paths absolute.
func (i *Inventory) resolve(dir string) {
	absolute := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	absolute(&i.KnownHosts)
	absolute(&i.Edge.TLS.Cert)
	absolute(&i.Edge.TLS.Key)
	absolute(&i.Postgres.CA)
	for m := range i.Machines {
		absolute(&i.Machines[m].IdentityFile)
	}
}

// With returns the machines that have the role, in order.
func (i *Inventory) With(role Role) []Machine {
	var found []Machine
	for _, machine := range i.Machines {
		if machine.Has(role) {
			found = append(found, machine)
		}
	}
	return found
}
