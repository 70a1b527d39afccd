package aws

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pass is one run of tend.sh on the leader of a Swarm that stands in files. What is not set is as in a whole stack.
type pass struct {
	t   *testing.T
	dir string
	// nodes are by host name: what differs from a ready node. ends are the machines that AWS is about to end.
	nodes map[string]map[string]any
	ends  []string
	// tasks is what runs on every node, have on how many nodes the release is.
	tasks  string
	have   string
	ledger map[string]any
	queue  string
	// release is the one that this machine has; database is RDS's host, or none.
	release, database string
}

const checksum = "abcabcabcabcabc"

func newPass(t *testing.T) *pass {
	t.Helper()
	p := &pass{
		t: t, dir: t.TempDir(), have: "99", release: checksum, database: "none", queue: `{"pending":0,"running":0,"callbacks":0}`,
		nodes: map[string]map[string]any{
			"manager-0a1": {"Role": "manager", "Leader": true}, "manager-0a2": {"Role": "manager"}, "edge-0b1": {}, "capture-0c1": {}, "worker-0d1": {}, "store-0e1": {},
		},
	}
	p.ledger = stream("capture-0c1", "active", 0, time.Now())
	return p
}

// stream is a ledger of one line.
func stream(node, state string, pending int, seen time.Time) map[string]any {
	return map[string]any{"ledger": map[string]any{"streams": []map[string]any{
		{"node": node, "state": state, "pending": pending, "seen_at": seen.UTC().Format(time.RFC3339Nano)},
	}}}
}

func (p *pass) write(name, content string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pass) writeJSON(name string, value any) {
	p.t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name, string(content))
}

// swarm writes nodes as docker node inspect prints them, and groups as AWS does.
func (p *pass) swarm() {
	var nodes, groups []map[string]any
	for _, role := range []string{"manager", "edge", "capture", "worker", "store"} {
		var instances []map[string]any
		for _, name := range sortedNames(p.nodes) {
			if !strings.HasPrefix(name, role) {
				continue
			}
			special := p.nodes[name]
			is := func(key string, or any) any {
				if value, ok := special[key]; ok {
					return value
				}
				return or
			}
			id, life := "i-"+strings.TrimPrefix(name, role+"-"), "InService"
			if slices.Contains(p.ends, name) {
				life = "Terminating:Wait"
			}
			if is("Instance", true) == true {
				instances = append(instances, map[string]any{"InstanceId": id, "LifecycleState": life})
			}
			labels := map[string]any{"waggle." + role: "true"}
			if role == "manager" {
				labels = map[string]any{}
			}
			node := map[string]any{
				"ID": "node-" + name, "Description": map[string]any{"Hostname": name},
				"Spec":   map[string]any{"Role": is("Role", "worker"), "Availability": is("Availability", "active"), "Labels": is("Labels", labels)},
				"Status": map[string]any{"State": is("State", "ready"), "Addr": "10.0.0." + name[len(name)-1:]},
			}
			if is("Role", "worker") == "manager" {
				node["ManagerStatus"] = map[string]any{"Leader": is("Leader", false), "Reachability": is("Reachability", "reachable"), "Addr": "10.0.1." + name[len(name)-1:] + ":2377"}
			}
			nodes = append(nodes, node)
		}
		groups = append(groups, map[string]any{"AutoScalingGroupName": "demo-" + role, "Instances": instances})
	}
	p.writeJSON("nodes.json", nodes)
	p.writeJSON("groups.json", map[string]any{"AutoScalingGroups": groups})
}

func sortedNames(nodes map[string]map[string]any) []string {
	var names []string
	for name := range nodes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// run returns what the pass changed, one command a line.
func (p *pass) run() string {
	p.t.Helper()
	p.swarm()
	p.writeJSON("ledger.json", p.ledger)
	for name, content := range map[string]string{
		"tasks": p.tasks, "have": p.have, "queue.json": p.queue, "machine.env": "ROLE=manager\nSTACK=demo\nAWS_DEFAULT_REGION=eu-central-1\n",
		"tend.sh": text(p.t, "tend.sh"), "opt/" + p.release + "/waggle": text(p.t, "testdata/tend/waggle"), "opt/" + p.release + "/functions/polls.json": "{}",
	} {
		p.write(name, content)
	}
	for name, value := range map[string]string{
		"basic-auth-password": "secret",
		"settings":            "BUCKET=b\nKEY=waggle-1.tar\nCHECKSUM=" + checksum + "\nIMAGES=archive\nSTATE=state\nPOLLS=none\nWORKERS=2\nREDIS_MAXMEMORY=16mb\nQUEUE_MAXMEMORY=16mb\nCOPIES=2 prefer\nPUBLIC_ORIGINS=none\nVOLUME=none\nDATABASE_HOST=" + p.database + "\nDATABASE_SECRET=secret-of-rds\n",
	} {
		p.write("parameters/"+name, value+"\n")
	}
	// The scripts' places on a machine become folders of the test.
	common := text(p.t, "common.sh")
	for from, to := range map[string]string{"readonly etc=/etc/waggle\n": "readonly etc=" + p.dir + "\n", "readonly opt=/opt/waggle ": "readonly opt=" + p.dir + "/opt "} {
		if !strings.Contains(common, from) {
			p.t.Fatalf("common.sh lacks %q", from)
		}
		common = strings.Replace(common, from, to, 1)
	}
	p.write("common.sh", common)
	_ = os.Remove(filepath.Join(p.dir, "log"))
	stubs, err := filepath.Abs("testdata/tend")
	if err != nil {
		p.t.Fatal(err)
	}
	command := exec.CommandContext(p.t.Context(), "bash", filepath.Join(p.dir, "tend.sh"))
	command.Env = append(os.Environ(), "SIM="+p.dir, "PATH="+stubs+string(os.PathListSeparator)+os.Getenv("PATH"))
	if out, err := command.CombinedOutput(); err != nil {
		p.t.Fatalf("%v\n%s", err, out)
	}
	changed, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(changed)
}

func (p *pass) parameter(name string) string {
	value, _ := os.ReadFile(filepath.Join(p.dir, "parameters", name))
	return strings.TrimSpace(string(value))
}

const (
	beat     = "aws autoscaling record-lifecycle-action-heartbeat --lifecycle-hook-name drain --auto-scaling-group-name demo-ROLE --instance-id ID\n"
	complete = "aws autoscaling complete-lifecycle-action --lifecycle-hook-name drain --auto-scaling-group-name demo-ROLE --instance-id ID --lifecycle-action-result CONTINUE\n"
)

// action is one of the two for a machine.
func action(template, machine string) string {
	role, hex, _ := strings.Cut(machine, "-")
	return strings.NewReplacer("ROLE", role, "ID", "i-"+hex).Replace(template)
}

func TestALeaderPublishesLabelsAndDeploysOnce(t *testing.T) {
	t.Parallel()
	p := newPass(t)
	p.nodes["edge-0b1"]["Labels"] = map[string]any{}
	if got := p.run(); !strings.Contains(got, "docker node update --label-add waggle.edge=true node-edge-0b1\n") {
		t.Errorf("it did not label the edge machine:\n%s", got)
	}
	if got := p.parameter("managers"); got != "10.0.1.1 10.0.1.2" || p.parameter("worker-token") != "SWMTKN-worker" || p.parameter("manager-token") != "SWMTKN-manager" {
		t.Errorf("managers %q, tokens %q and %q", got, p.parameter("worker-token"), p.parameter("manager-token"))
	}
	if status := p.parameter("status"); status != "waiting for a machine with role edge" {
		t.Errorf("status %q", status)
	}
	delete(p.nodes["edge-0b1"], "Labels")
	p.have = "5"
	if got := p.run(); strings.Contains(got, "waggle up") || p.parameter("status") != "waiting until every machine has release waggle-1.tar" {
		t.Errorf("one machine of six lacks the release:\n%s%s", got, p.parameter("status"))
	}
	p.have = "6"
	if got := p.run(); !strings.Contains(got, "waggle up GATEWAYS=http://10.0.0.1 COPIES=2 prefer PRELOADED=1\n") || p.parameter("status") != "up: waggle-1.tar" {
		t.Errorf("%sstatus %s", got, p.parameter("status"))
	}
	if kept, err := os.Stat(filepath.Join(p.dir, "state.tar.gz")); err != nil || kept.Size() == 0 {
		t.Errorf("the state is not kept: %v", err)
	}
	if got := p.run(); got != "" {
		t.Errorf("a pass without a change changed\n%s", got)
	}
	p.nodes["capture-0c2"], p.have = map[string]any{}, "99"
	if got := p.run(); !strings.Contains(got, "waggle up") {
		t.Errorf("a new capture machine is not deployed to:\n%s", got)
	}
}

func TestRDSStandsInForTheStore(t *testing.T) {
	t.Parallel()
	p := newPass(t)
	p.database = "db.example"
	delete(p.nodes, "store-0e1")
	const want = "psql --quiet --no-psqlrc --file DIR/opt/roles.sql host=db.example user=master dbname=postgres sslmode=verify-full sslrootcert=DIR/opt/rds.pem PGPASSWORD=p ROLES\n" +
		"waggle up GATEWAYS=http://10.0.0.1 COPIES=2 prefer PRELOADED=1 POSTGRES_HOSTS=db.example POSTGRES_CA=DIR/opt/rds.pem\n"
	if got := p.run(); !strings.Contains(got, strings.ReplaceAll(want, "DIR", p.dir)) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "opt/roles.sql")); err == nil {
		t.Error("the statements stay on the disk")
	}
	p = newPass(t)
	p.database = "refuses.example"
	if got := p.run(); strings.Contains(got, "waggle up") || p.parameter("status") != "preparing the database failed: FATAL: refused" {
		t.Errorf("%sstatus %s", got, p.parameter("status"))
	}
}

// waiting is a stack that has nothing to deploy.
func waiting(t *testing.T) *pass {
	t.Helper()
	p := newPass(t)
	p.release = "another"
	return p
}

func TestACaptureMachineEndsOnlyWhenItsVotesAreCounted(t *testing.T) {
	t.Parallel()
	const name, node = "capture-0c1", "node-capture-0c1"
	quiet := time.Now().Add(-time.Minute).Truncate(time.Second)
	draining := map[string]any{"waggle.capture": "true", "waggle.draining": "true"}
	still := map[string]any{"waggle.capture": "true", "waggle.draining": "true", "waggle.quiet": strconv.FormatInt(quiet.Unix(), 10)}
	drained := map[string]any{"waggle.draining": "true", "waggle.quiet": still["waggle.quiet"], "waggle.drained": "true"}
	cases := map[string]struct {
		labels map[string]any
		state  string
		tasks  string
		ledger map[string]any
		want   string
		never  string
	}{
		"its ballot leaves first":        {want: "docker node update --label-add waggle.draining=true " + node, never: "complete"},
		"its ballot still runs":          {labels: draining, tasks: "Running 1 minute ago\n", want: action(beat, name), never: "docker node update"},
		"its ballot has left":            {labels: draining, want: "docker node update --label-add waggle.quiet=", never: "complete"},
		"votes are pending":              {labels: still, ledger: stream(name, "active", 1, time.Now()), want: action(beat, name), never: "docker node update"},
		"it was read too early":          {labels: still, ledger: stream(name, "active", 0, quiet.Add(14*time.Second)), want: action(beat, name), never: "docker node update"},
		"nobody ever read it":            {labels: still, ledger: stream("capture-0c9", "active", 0, time.Now()), want: action(beat, name), never: "docker node update"},
		"all is counted":                 {labels: still, ledger: stream(name, "active", 0, quiet.Add(16*time.Second)), want: "docker node update --label-add waggle.drained=true --label-rm waggle.capture " + node, never: "complete"},
		"its Redis still runs":           {labels: drained, tasks: "Running 1 minute ago\n", want: "docker node update --availability drain " + node, never: "complete"},
		"it is written off":              {labels: drained, want: "worker:1 retire -node " + name + " -drained", never: "complete"},
		"it may end":                     {labels: drained, ledger: stream(name, "retired", 0, quiet), want: action(complete, name)},
		"it is dead, votes are pending":  {labels: still, state: "down", ledger: stream(name, "missing", 1, quiet), want: action(beat, name), never: "docker node update"},
		"it is dead, its copies counted": {labels: still, state: "down", ledger: stream(name, "missing", 0, quiet), want: "waggle.drained=true", never: "complete"},
		"it is dead and written off":     {labels: drained, state: "down", ledger: stream(name, "missing", 0, quiet), want: "worker:1 retire -node " + name + "\n", never: "-drained"},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := waiting(t)
			p.ends, p.tasks = []string{name}, c.tasks
			if c.labels != nil {
				p.nodes[name]["Labels"] = c.labels
			}
			if c.state != "" {
				p.nodes[name]["State"] = c.state
			}
			if c.ledger != nil {
				p.ledger = c.ledger
			}
			got := p.run()
			if !strings.Contains(got, c.want) || c.never != "" && strings.Contains(got, c.never) {
				t.Errorf("got\n%s\nwant %s\nand never %s", got, c.want, c.never)
			}
		})
	}
}

func TestOtherMachinesEndWhenTheyAreEmpty(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		name        string
		change      func(*pass)
		want, never string
	}{
		"an edge machine with calls": {"edge-0b1", func(p *pass) { p.queue = `{"pending":1,"running":0,"callbacks":0}` }, action(beat, "edge-0b1"), "docker node update"},
		"an edge machine unread":     {"edge-0b1", func(p *pass) { p.queue = `` }, action(beat, "edge-0b1"), "docker node update"},
		"an edge machine":            {"edge-0b1", nil, "docker node update --availability drain node-edge-0b1\n" + action(complete, "edge-0b1"), ""},
		"a worker with tasks":        {"worker-0d1", func(p *pass) { p.tasks = "Running 1 second ago\n" }, "docker node update --availability drain node-worker-0d1\n" + action(beat, "worker-0d1"), "complete"},
		"a store that is dead":       {"store-0e1", func(p *pass) { p.nodes["store-0e1"]["State"], p.tasks = "down", "Running 1 hour ago\n" }, action(complete, "store-0e1"), ""},
		"a follower":                 {"manager-0a2", nil, "docker node demote node-manager-0a2\n" + action(beat, "manager-0a2"), "complete"},
		"a demoted manager":          {"manager-0a2", func(p *pass) { p.nodes["manager-0a2"]["Role"] = "worker" }, action(complete, "manager-0a2"), "demote"},
		"the leader":                 {"manager-0a1", nil, "docker node demote node-manager-0a1\n" + action(beat, "manager-0a1"), "complete"},
		"the last manager":           {"manager-0a1", func(p *pass) { delete(p.nodes, "manager-0a2") }, "aws ssm delete-parameters --names /waggle/demo/first /waggle/demo/managers /waggle/demo/worker-token /waggle/demo/manager-token /waggle/demo/status\n" + action(complete, "manager-0a1"), "demote"},
		"one that never became a node": {"edge-0b2", func(p *pass) {
			p.nodes["edge-0b2"] = map[string]any{}
		}, action(complete, "edge-0b2"), "node-edge-0b1"},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p := waiting(t)
			p.ends = []string{c.name}
			if c.change != nil {
				c.change(p)
			}
			got := p.run()
			if !strings.Contains(got, c.want) || c.never != "" && strings.Contains(got, c.never) {
				t.Errorf("got\n%s\nwant\n%s\nand never %s", got, c.want, c.never)
			}
		})
	}
}

func TestNodesOfMachinesThatAreGoneAreForgotten(t *testing.T) {
	t.Parallel()
	p := waiting(t)
	p.nodes["worker-0d9"] = map[string]any{"State": "down", "Instance": false}
	p.nodes["manager-0a9"] = map[string]any{"State": "down", "Instance": false, "Role": "manager", "Reachability": "unreachable"}
	p.nodes["edge-0b9"] = map[string]any{"State": "down"}
	got := p.run()
	if !strings.Contains(got, "docker node rm --force node-worker-0d9\n") || !strings.Contains(got, "docker node demote node-manager-0a9\ndocker node rm --force node-manager-0a9\n") {
		t.Errorf("not forgotten:\n%s", got)
	}
	if strings.Contains(got, "edge-0b9") {
		t.Errorf("AWS still has the machine:\n%s", got)
	}
}
