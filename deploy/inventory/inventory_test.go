package inventory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const three = `
machines:
  - { name: m1, ssh: deploy@203.0.113.1, host_key: "ssh-ed25519 AAAAC3Nz", address: 10.0.0.1, roles: [manager, edge] }
  - { name: m2, ssh: "deploy@203.0.113.2:2222", address: 10.0.0.2, roles: [manager, edge, capture] }
  - { name: m3, ssh: "root@[2001:db8::3]", address: 10.0.0.3, roles: [manager, capture, worker, store], identity_file: keys/id }
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatIsLeftOutHasItsDefault(t *testing.T) {
	t.Parallel()
	path := write(t, "known_hosts: keys/known\n"+three)
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Edge.Port != 8080 || got.Edge.TLSPort != 8443 || got.Workers != 1 || got.Capture.MaxMemory != "512mb" ||
		got.Network != (Network{Pool: "10.200.0.0/13", MTU: 1450}) {
		t.Errorf("defaults: %+v", got)
	}
	if want := filepath.Join(filepath.Dir(path), "keys/id"); got.Machines[2].IdentityFile != want {
		t.Errorf("identity file %s, want %s: relative to the inventory", got.Machines[2].IdentityFile, want)
	}
	if want := filepath.Join(filepath.Dir(path), "keys/known"); got.KnownHosts != want {
		t.Errorf("known hosts %s, want %s: relative to the inventory", got.KnownHosts, want)
	}
	if managers := got.With(Manager); len(managers) != 3 || managers[0].Name != "m1" {
		t.Errorf("managers: %+v", managers)
	}
}

func TestExampleIsLegal(t *testing.T) {
	t.Parallel()
	example, err := Read("example.yml")
	if err != nil || len(example.Machines) != 3 || len(example.With(Capture)) != 2 {
		t.Errorf("%+v, %v", example, err)
	}
}

func TestEachMistakeIsNamedWithWhatIsLegal(t *testing.T) {
	t.Parallel()
	replace := func(old, new string) string {
		if !strings.Contains(three, old) {
			panic(old)
		}
		return strings.ReplaceAll(three, old, new)
	}
	cases := map[string]struct{ text, want string }{
		"cluster's name":      {three + "name: ../x", `name is "../x": must be 1 to 30 characters`},
		"no machine":          {"machines: []", "machines is empty: must be a list"},
		"unknown key":         {three + "edges: {}", "field edges not found"},
		"unknown machine key": {replace("identity_file", "key_file"), "field key_file not found"},
		"no name":             {replace("name: m2, ", ""), "machines[1]: name is empty: must be the machine's host name"},
		"name with a dot":     {replace("name: m2", "name: m.2"), `name is "m.2"`},
		"repeated name":       {replace("name: m2", "name: m1"), `machine name is "m1": must be different`},
		"no ssh":              {replace("ssh: deploy@203.0.113.1, ", ""), "machine m1: ssh is empty: must be user@host"},
		"ssh without user":    {replace("deploy@203.0.113.1", "203.0.113.1"), `machine m1: ssh is "203.0.113.1"`},
		"ssh option":          {replace("deploy@203.0.113.1", "-oProxyCommand=x"), "must be user@host"},
		"host key":            {replace("ssh-ed25519 AAAAC3Nz", "SHA256:abc"), "machine m1: host_key"},
		"no address":          {replace("address: 10.0.0.2, ", ""), "machine m2: address is empty"},
		"address a name":      {replace("10.0.0.2,", "db.internal,"), `machine m2: address is "db.internal": must be the IP address`},
		"repeated address":    {replace("10.0.0.2,", "10.0.0.1,"), `machine m2: address is "10.0.0.1": must be different`},
		"no roles":            {replace("[manager, edge]", "[]"), "machine m1: roles is empty: must be one or more of manager, edge, capture, worker, store"},
		"unknown role":        {replace("[manager, edge]", "[manager, egde]"), `machine m1: role is "egde"`},
		"role on no machine":  {replace("worker, ", ""), "role worker is on no machine"},
		"two stores":          {replace("edge, capture", "edge, capture, store"), "role store is on 2 machines: must be on exactly one"},
		"port":                {three + "edge: { port: 70000 }", "edge: port is 70000: must be 1 to 65535"},
		"half a certificate":  {three + "edge: { tls: { cert: a.pem } }", "edge: tls is half given"},
		"pool":                {three + "network: { pool: 10.0.0.0/24 }", `network: pool is "10.0.0.0/24": must be an IPv4 network of /8 to /16`},
		"pool over machines":  {three + "network: { pool: 10.0.0.0/13 }", "apart from the machines' addresses; m1 is 10.0.0.1"},
		"mtu":                 {three + "network: { mtu: 100 }", "network: mtu is 100: must be 576 to 65485"},
		"memory":              {three + "capture: { maxmemory: 8mb }", `capture: maxmemory is "8mb": must be 16mb to 999999mb`},
		"our store beside":    {three + "postgres: { hosts: [pg1], ca: ca.pem }", "role store is on machine m3: must be on none"},
		"host":                {three + "postgres: { hosts: ['pg 1'], ca: ca.pem }", `postgres: host is "pg 1": must be a name`},
		"no authority":        {three + "postgres: { hosts: [pg1] }", "postgres: ca is empty: must be a file"},
		"sslmode":             {three + "postgres: { hosts: [pg1], sslmode: prefer }", `postgres: sslmode is "prefer": must be one of disable, require`},
		"postgres port":       {three + "postgres: { hosts: [pg1], port: 70000 }", "postgres: port is 70000"},
		"no host":             {three + "postgres: { port: 5433 }", "postgres: hosts is empty"},
		"archive":             {three + "postgres: { archive: backups }", `postgres: archive is "backups": must be the absolute path of a directory`},
		"archive of others":   {three + "postgres: { hosts: [pg1], ca: ca.pem, archive: /a }", `postgres: archive is "/a": must be empty`},
		"archive and no host": {three + "postgres: { port: 5433, archive: /a }", "postgres: hosts is empty"},
		"workers":             {three + "workers: 100", "workers is 100: must be 1 to 64"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Read(write(t, c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAnExternalPostgresNeedsNoStore(t *testing.T) {
	t.Parallel()
	path := write(t, strings.Replace(three, ", store]", "]", 1)+"postgres: { hosts: [pg1, pg2.example.org], ca: ca.pem }\n")
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Postgres; p.Port != 5432 || p.SSLMode != "verify-full" || p.CA != filepath.Join(filepath.Dir(path), "ca.pem") {
		t.Errorf("got %+v", p)
	}
}

func TestAllMistakesAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Read(write(t, strings.ReplaceAll(three, "10.0.0.2", "nowhere")+"workers: 0x\n"))
	if err == nil || !strings.Contains(err.Error(), "cannot unmarshal") {
		t.Errorf("a value of the wrong type: %v", err)
	}
	_, err = Read(write(t, strings.ReplaceAll(three, "10.0.0.2", "nowhere")+"workers: 99\n"))
	if err == nil || !strings.Contains(err.Error(), "nowhere") || !strings.Contains(err.Error(), "workers is 99") {
		t.Errorf("two mistakes: %v", err)
	}
}

func FuzzInventory(f *testing.F) {
	f.Add([]byte(three))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parse(text)
		if err == nil && (len(got.Machines) == 0 || (len(got.With(Store)) == 1) == (len(got.Postgres.Hosts) > 0)) {
			t.Errorf("accepted %+v", got)
		}
	})
}

func TestAPostgresOfOthersWithoutAnInventory(t *testing.T) {
	t.Parallel()
	if got, err := Database(nil, "", "/archive"); err != nil || len(got.Hosts) > 0 || got.Port != 0 || got.Archive != "/archive" {
		t.Errorf("none: %+v, %v", got, err)
	}
	if got, err := Database([]string{"db.example"}, "/ca.pem", ""); err != nil || got.Port != 5432 || got.SSLMode != "verify-full" || got.CA != "/ca.pem" {
		t.Errorf("one: %+v, %v", got, err)
	}
	if _, err := Database([]string{"db.example"}, "", ""); err == nil || !strings.Contains(err.Error(), "postgres: ca is empty") {
		t.Errorf("without authorities: %v", err)
	}
}
