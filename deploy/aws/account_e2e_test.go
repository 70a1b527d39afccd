//go:build e2e

package aws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// account stands for AWS: the metadata service, parameters, buckets, groups of machines; and for the edge machines' gateways.
// It knows a machine by its address, and allows what the template's role of that machine allows.
type account struct {
	t    *testing.T
	role map[string][]string // what each role may do, as action and resource

	mu         sync.Mutex
	machines   map[string]*instance // by address
	parameters map[string]string
	secure     map[string]bool
	objects    map[string][]byte // by bucket/key
	completed  map[string]bool   // instances that may end
	extended   map[string]int    // heartbeats by instance
	signals    map[string]string // resource by instance
	ledger     []map[string]any  // streams of the results
	queued     int               // asynchronous calls of each gateway
	refused    []string          // calls that no role allows
	calls      map[string]bool
}

// instance is a machine of a group.
type instance struct{ id, role, address, life string }

func newAccount(t *testing.T) *account {
	t.Helper()
	all := newResolver(t, nil).resources()
	a := &account{
		t: t, role: map[string][]string{}, machines: map[string]*instance{}, parameters: map[string]string{}, secure: map[string]bool{},
		objects: map[string][]byte{}, completed: map[string]bool{}, extended: map[string]int{}, signals: map[string]string{}, calls: map[string]bool{},
	}
	for role := range of(all, "AWS::IAM::Role") {
		a.role[strings.ToLower(strings.TrimSuffix(role, "Role"))] = allowed(t, all, role)
	}
	return a
}

// change does something to the account while no call is answered.
func (a *account) change(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do()
}

func (a *account) parameter(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.parameters["/waggle/demo/"+name]
}

func (a *account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	machine := a.machines[host]
	switch {
	case r.URL.Path == "/function/results":
		_ = json.NewEncoder(w).Encode(map[string]any{"ledger": map[string]any{"streams": a.ledger}})
	case r.URL.Path == "/system/queue":
		if user, password, _ := r.BasicAuth(); user != "admin" || password != a.parameters["/waggle/demo/basic-auth-password"] {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"pending":%d,"running":0,"callbacks":0}`, a.queued)
	case machine == nil:
		http.Error(w, "unknown machine "+host, http.StatusForbidden)
	case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut:
		fmt.Fprint(w, "token-of-"+machine.id)
	case strings.HasPrefix(r.URL.Path, "/latest/meta-data/"):
		if r.Header.Get("X-aws-ec2-metadata-token") != "token-of-"+machine.id {
			http.Error(w, "IMDSv2 is required", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, map[string]string{"instance-id": machine.id, "local-ipv4": machine.address}[path.Base(r.URL.Path)])
	case r.URL.Path == "/aws":
		joined, err := base64.URLEncoding.DecodeString(r.URL.Query().Get("q"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := a.call(machine, strings.Split(strings.TrimSuffix(string(joined), "\x00"), "\x00"), body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(answer)
	default:
		http.NotFound(w, r)
	}
}

// option is the value after a flag.
func option(args []string, flag string) string {
	if i := slices.Index(args, flag); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

const (
	arnParameter = "arn:aws:ssm:eu-central-1:123456789012:parameter"
	arnGroup     = "arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:0a:autoScalingGroupName/"
	arnEC2       = "arn:aws:ec2:eu-central-1:123456789012:"
)

// may checks a call against the template's policies.
func (a *account) may(m *instance, action, resource string) error {
	for _, pair := range a.role[m.role] {
		permitted, pattern, _ := strings.Cut(pair, " ")
		pattern = strings.NewReplacer("att:State.Arn", "arn:aws:s3:::state", "ref:StoreVolume", "vol-0store").Replace(pattern)
		if permitted == action && like(pattern, resource) {
			return nil
		}
	}
	denied := fmt.Sprintf("AccessDenied: %s may not do %s to %s", m.role, action, resource)
	a.refused = append(a.refused, denied)
	return fmt.Errorf("%s", denied)
}

// like matches a resource with a pattern in which * is any text.
func like(pattern, resource string) bool {
	head, tail, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == resource
	}
	if !strings.HasPrefix(resource, head) {
		return false
	}
	for rest := resource[len(head):]; ; rest = rest[1:] {
		if like(tail, rest) {
			return true
		}
		if rest == "" {
			return false
		}
	}
}

func (a *account) call(m *instance, args []string, input []byte) ([]byte, error) {
	a.calls[strings.Join(args, " ")] = true
	name := option(args, "--name")
	switch args[0] + " " + args[1] {
	case "ssm get-parameter":
		if err := a.may(m, "ssm:GetParameter", arnParameter+name); err != nil {
			return nil, err
		}
		value, ok := a.parameters[name]
		if !ok {
			return nil, fmt.Errorf("ParameterNotFound")
		}
		return []byte(value + "\n"), nil
	case "ssm put-parameter":
		if err := a.may(m, "ssm:PutParameter", arnParameter+name); err != nil {
			return nil, err
		}
		if _, exists := a.parameters[name]; exists && !slices.Contains(args, "--overwrite") {
			return nil, fmt.Errorf("ParameterAlreadyExists")
		}
		value := option(args, "--value")
		if value == "file:///dev/stdin" {
			value = strings.TrimSuffix(string(input), "\n")
		}
		a.parameters[name], a.secure[name] = value, option(args, "--type") == "SecureString"
		return nil, nil
	case "ssm delete-parameters":
		for _, name := range args[slices.Index(args, "--names")+1:] {
			if err := a.may(m, "ssm:DeleteParameters", arnParameter+name); err != nil {
				return nil, err
			}
			delete(a.parameters, name)
		}
		return nil, nil
	case "s3 cp":
		return a.copy(m, args, input)
	case "s3api head-object":
		key := option(args, "--bucket") + "/" + option(args, "--key")
		if err := a.may(m, "s3:GetObject", "arn:aws:s3:::"+key); err != nil {
			return nil, err
		}
		if _, ok := a.objects[key]; !ok {
			return nil, fmt.Errorf("An error occurred (404) when calling the HeadObject operation: Not Found")
		}
		return []byte("{}"), nil
	case "autoscaling describe-auto-scaling-groups":
		if err := a.may(m, "autoscaling:DescribeAutoScalingGroups", "*"); err != nil {
			return nil, err
		}
		return a.describe(args), nil
	case "autoscaling complete-lifecycle-action", "autoscaling record-lifecycle-action-heartbeat":
		action := map[string]string{"complete-lifecycle-action": "CompleteLifecycleAction", "record-lifecycle-action-heartbeat": "RecordLifecycleActionHeartbeat"}[args[1]]
		if err := a.may(m, "autoscaling:"+action, arnGroup+option(args, "--auto-scaling-group-name")); err != nil {
			return nil, err
		}
		id := option(args, "--instance-id")
		if option(args, "--lifecycle-hook-name") != "drain" {
			return nil, fmt.Errorf("ValidationError: no such hook")
		}
		if action == "CompleteLifecycleAction" {
			a.completed[id] = true
		} else {
			a.extended[id]++
		}
		return nil, nil
	case "ec2 attach-volume":
		for _, resource := range []string{"volume/" + option(args, "--volume-id"), "instance/" + option(args, "--instance-id")} {
			if err := a.may(m, "ec2:AttachVolume", arnEC2+resource); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "cloudformation signal-resource":
		if err := a.may(m, "cloudformation:SignalResource", pseudo["AWS::StackId"].(string)); err != nil {
			return nil, err
		}
		a.signals[option(args, "--unique-id")] = option(args, "--logical-resource-id")
		return nil, nil
	}
	return nil, fmt.Errorf("the test's account does not know %v", args)
}

// copy is `aws s3 cp FROM TO`, in which one of both is s3://.
func (a *account) copy(m *instance, args []string, input []byte) ([]byte, error) {
	from, to := args[len(args)-2], args[len(args)-1]
	if key, up := strings.CutPrefix(to, "s3://"); up {
		a.objects[key] = input
		return nil, a.may(m, "s3:PutObject", "arn:aws:s3:::"+key)
	}
	key := strings.TrimPrefix(from, "s3://")
	if err := a.may(m, "s3:GetObject", "arn:aws:s3:::"+key); err != nil {
		return nil, err
	}
	object, ok := a.objects[key]
	if !ok {
		return nil, fmt.Errorf("fatal error: An error occurred (404): %s", key)
	}
	return object, nil
}

// describe answers for the groups in the arguments; with --query, the instances' ids alone.
func (a *account) describe(args []string) []byte {
	type described struct {
		ID    string `json:"InstanceId"`
		State string `json:"LifecycleState"`
	}
	type group struct {
		AutoScalingGroupName string
		Instances            []described
	}
	var groups []group
	var ids []string
	for _, role := range []string{"manager", "edge", "capture", "worker", "store"} {
		if !slices.Contains(args, "demo-"+role) {
			continue
		}
		g := group{AutoScalingGroupName: "demo-" + role, Instances: []described{}}
		for _, address := range slices.Sorted(maps.Keys(a.machines)) {
			if m := a.machines[address]; m.role == role && m.life != "" {
				g.Instances = append(g.Instances, described{m.id, m.life})
				ids = append(ids, m.id)
			}
		}
		groups = append(groups, g)
	}
	if option(args, "--query") != "" {
		return []byte(strings.Join(ids, "\t") + "\n")
	}
	text, err := json.Marshal(map[string]any{"AutoScalingGroups": groups})
	if err != nil {
		a.t.Error(err)
	}
	return text
}
