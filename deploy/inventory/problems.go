package inventory

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	clusterName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,29}$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	sshTarget   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*@([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$`)
	publicKey   = regexp.MustCompile(`^(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( .*)?$`)
	serverName  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$`)
	directory   = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
	megabytes   = regexp.MustCompile(`^[0-9]{2,6}mb$`)
)

// problem phrases one mistake: setting, value, what is legal.
func problem(setting string, value any, legal string) error {
	return fmt.Errorf("%s is %v: must be %s", setting, value, legal)
}

// problems lists what is wrong, in the order of the file.
func (i *Inventory) problems() []error {
	var found []error
	if !clusterName.MatchString(i.Name) {
		found = append(found, problem("name", quote(i.Name), "1 to 30 characters of a-z, 0-9 and '-', not starting with '-'"))
	}
	if len(i.Machines) == 0 {
		return []error{problem("machines", "empty", "a list of at least one machine")}
	}
	for n, machine := range i.Machines {
		found = append(found, machine.problems(n)...)
	}
	found = append(found, i.repeated()...)
	found = append(found, i.rolesWithoutMachine()...)
	found = append(found, i.settingProblems()...)
	return found
}

func (m Machine) problems(n int) []error {
	var found []error
	at := fmt.Sprintf("machines[%d]", n)
	if m.Name != "" {
		at = "machine " + m.Name
	}
	if !hostName.MatchString(m.Name) {
		found = append(found, problem(at+": name", quote(m.Name), "the machine's host name: 1 to 63 letters, digits and '-'"))
	}
	if !sshTarget.MatchString(m.SSH) {
		found = append(found, problem(at+": ssh", quote(m.SSH), "user@host or user@host:port"))
	}
	if m.HostKey != "" && !publicKey.MatchString(m.HostKey) {
		found = append(found, problem(at+": host_key", quote(m.HostKey), `a public key such as "ssh-ed25519 AAAA…"`))
	}
	if address, err := netip.ParseAddr(m.Address); err != nil || !address.IsValid() || address.IsUnspecified() || address.IsMulticast() {
		found = append(found, problem(at+": address", quote(m.Address), "the IP address by which the other machines reach it"))
	}
	if len(m.Roles) == 0 {
		found = append(found, problem(at+": roles", "empty", "one or more of "+roleList()))
	}
	for _, role := range m.Roles {
		if !slices.Contains(Roles, role) {
			found = append(found, problem(at+": role", quote(string(role)), "one of "+roleList()))
		}
	}
	return found
}

// repeated finds what only one machine may have.
func (i *Inventory) repeated() []error {
	var found []error
	names, addresses := map[string]bool{}, map[string]bool{}
	for _, machine := range i.Machines {
		if names[machine.Name] {
			found = append(found, problem("machine name", quote(machine.Name), "different for each machine"))
		}
		if addresses[machine.Address] {
			found = append(found, problem("machine "+machine.Name+": address", quote(machine.Address), "different for each machine"))
		}
		names[machine.Name], addresses[machine.Address] = true, true
	}
	return found
}

func (i *Inventory) rolesWithoutMachine() []error {
	var found []error
	external := len(i.Postgres.Hosts) > 0
	for _, role := range Roles {
		if len(i.With(role)) == 0 && !(role == Store && external) {
			found = append(found, problem("role "+string(role), "on no machine", "on at least one"))
		}
	}
	// Its volume is on one machine: Swarm could start Postgres on the other with an empty one.
	if stores := i.With(Store); len(stores) > 0 && external {
		found = append(found, problem("role store", "on machine "+stores[0].Name, "on none, since postgres: hosts names a database that others run"))
	} else if len(stores) > 1 {
		found = append(found, problem("role store", fmt.Sprintf("on %d machines", len(stores)), "on exactly one"))
	}
	return found
}

func (i *Inventory) settingProblems() []error {
	var found []error
	for _, port := range []struct {
		setting string
		value   int
	}{{"edge: port", i.Edge.Port}, {"edge: tls_port", i.Edge.TLSPort}} {
		if port.value < 1 || port.value > 65535 {
			found = append(found, problem(port.setting, port.value, "1 to 65535"))
		}
	}
	if (i.Edge.TLS.Cert == "") != (i.Edge.TLS.Key == "") {
		found = append(found, problem("edge: tls", "half given", "both cert and key, or neither"))
	}
	pool, err := netip.ParsePrefix(i.Network.Pool)
	if err != nil || !pool.Addr().Is4() || pool.Bits() > 16 || pool.Bits() < 8 {
		found = append(found, problem("network: pool", quote(i.Network.Pool), "an IPv4 network of /8 to /16, such as 10.200.0.0/13"))
	} else {
		for _, machine := range i.Machines {
			if address, err := netip.ParseAddr(machine.Address); err == nil && pool.Contains(address) {
				found = append(found, problem("network: pool", pool, fmt.Sprintf("apart from the machines' addresses; %s is %s", machine.Name, address)))
			}
		}
	}
	if i.Network.MTU < 576 || i.Network.MTU > 65485 {
		found = append(found, problem("network: mtu", i.Network.MTU, "576 to 65485"))
	}
	if size, _ := strconv.Atoi(strings.TrimSuffix(i.Capture.MaxMemory, "mb")); !megabytes.MatchString(i.Capture.MaxMemory) || size < 16 {
		found = append(found, problem("capture: maxmemory", quote(i.Capture.MaxMemory), "16mb to 999999mb"))
	}
	found = append(found, i.Postgres.problems()...)
	if i.Workers < 1 || i.Workers > 64 {
		found = append(found, problem("workers", i.Workers, "1 to 64"))
	}
	return found
}

// sslModes are those of libpq that do not fall back to another.
var sslModes = []string{"disable", "require", "verify-ca", "verify-full"}

func (p Postgres) problems() []error {
	if len(p.Hosts) == 0 {
		if p.Archive != "" && !directory.MatchString(p.Archive) {
			return []error{problem("postgres: archive", quote(p.Archive), "the absolute path of a directory, of letters, digits and '._-/'")}
		}
		if p.Port != 0 || p.SSLMode != "" || p.CA != "" {
			return []error{problem("postgres: hosts", "empty", "the names of its servers, where port, sslmode or ca is given")}
		}
		return nil
	}
	var found []error
	if p.Archive != "" {
		found = append(found, problem("postgres: archive", quote(p.Archive), "empty, since hosts names a database whose archive is its own"))
	}
	for _, host := range p.Hosts {
		if !serverName.MatchString(host) {
			found = append(found, problem("postgres: host", quote(host), "a name or an address"))
		}
	}
	if p.Port < 1 || p.Port > 65535 {
		found = append(found, problem("postgres: port", p.Port, "1 to 65535"))
	}
	if !slices.Contains(sslModes, p.SSLMode) {
		found = append(found, problem("postgres: sslmode", quote(p.SSLMode), "one of "+strings.Join(sslModes, ", ")))
	}
	if strings.HasPrefix(p.SSLMode, "verify") && p.CA == "" {
		found = append(found, problem("postgres: ca", "empty", "a file with certificates of authorities, for sslmode "+p.SSLMode))
	}
	return found
}

func quote(text string) string {
	if text == "" {
		return "empty"
	}
	return strconv.Quote(text)
}

func roleList() string {
	names := make([]string, len(Roles))
	for n, role := range Roles {
		names[n] = string(role)
	}
	return strings.Join(names, ", ")
}
