package aws

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// each runs a check with every choice of parameters.
func each(t *testing.T, check func(*testing.T, map[string]resource)) {
	t.Helper()
	for name, given := range choices {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, newResolver(t, given).resources())
		})
	}
}

// list is a value that may be left out, one, or several.
func list(value any) []any {
	switch v := value.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{value}
}

// rule is one of a security group, wherever it stands.
type rule struct {
	group   string
	egress  bool
	details map[string]any
}

func (r rule) String() string { return fmt.Sprintf("%s %v", r.group, r.details) }

func rules(all map[string]resource) []rule {
	var found []rule
	for name, group := range of(all, "AWS::EC2::SecurityGroup") {
		for _, r := range list(group.properties["SecurityGroupIngress"]) {
			found = append(found, rule{"ref:" + name, false, r.(map[string]any)})
		}
		for _, r := range list(group.properties["SecurityGroupEgress"]) {
			found = append(found, rule{"ref:" + name, true, r.(map[string]any)})
		}
	}
	for _, r := range of(all, "AWS::EC2::SecurityGroupIngress") {
		found = append(found, rule{r.properties["GroupId"].(string), false, r.properties})
	}
	for _, r := range of(all, "AWS::EC2::SecurityGroupEgress") {
		found = append(found, rule{r.properties["GroupId"].(string), true, r.properties})
	}
	return found
}

func TestTheWorldReachesPorts80And443OfTheBalancerAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, all map[string]resource) {
		open := map[string]bool{}
		for _, r := range rules(all) {
			from, to := r.details["FromPort"], r.details["ToPort"]
			if r.details["IpProtocol"] == "-1" || from == nil || from != to {
				t.Errorf("%s: must name one protocol and one port", r)
			}
			for _, key := range []string{"CidrIpv6", "SourcePrefixListId", "DestinationPrefixListId"} {
				if r.details[key] != nil {
					t.Errorf("%s: %s is not expected", r, key)
				}
			}
			if from == "22" {
				t.Errorf("%s: people come in through Session Manager", r)
			}
			cidr := r.details["CidrIp"]
			if cidr == nil {
				peer := r.details["SourceSecurityGroupId"]
				if r.egress {
					peer = r.details["DestinationSecurityGroupId"]
				}
				name, ok := strings.CutPrefix(fmt.Sprint(peer), "ref:")
				if !ok || all[name].kind != "AWS::EC2::SecurityGroup" {
					t.Errorf("%s: the other side must be a group's id", r)
				}
				continue
			}
			if cidr != "0.0.0.0/0" || r.details["IpProtocol"] != "tcp" || from != "80" && from != "443" {
				t.Errorf("%s: addresses are for the world alone, on 80 and 443", r)
			}
			if !r.egress {
				if r.group != "ref:BalancerGroup" {
					t.Errorf("%s: only the balancer is open to the world", r)
				}
				open[from.(string)] = true
			}
		}
		_, tls := all["TlsListener"]
		if !open["80"] || open["443"] != tls {
			t.Errorf("open to the world: %v; TLS listener: %v", open, tls)
		}
		// A group without a rule for the way out has one to everywhere.
		for name, group := range of(all, "AWS::EC2::SecurityGroup") {
			if len(list(group.properties["SecurityGroupEgress"])) == 0 {
				t.Errorf("%s may send anything anywhere", name)
			}
		}
	})
}

func TestNodesReachEachOtherOnSwarmsPorts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, all map[string]resource) {
		type way struct{ from, to, port string }
		in, out := map[way]bool{}, map[way]bool{}
		for _, r := range rules(all) {
			port := fmt.Sprint(r.details["FromPort"], "/", r.details["IpProtocol"])
			if r.egress {
				out[way{r.group, fmt.Sprint(r.details["DestinationSecurityGroupId"]), port}] = true
			} else {
				in[way{fmt.Sprint(r.details["SourceSecurityGroupId"]), r.group, port}] = true
			}
		}
		for _, w := range []way{
			{"ref:MemberGroup", "ref:ManagerGroup", "2377/tcp"}, {"ref:MemberGroup", "ref:MemberGroup", "7946/tcp"},
			{"ref:MemberGroup", "ref:MemberGroup", "7946/udp"}, {"ref:MemberGroup", "ref:MemberGroup", "4789/udp"},
			{"ref:BalancerGroup", "ref:EdgeGroup", "80/tcp"}, {"ref:ManagerGroup", "ref:EdgeGroup", "80/tcp"},
		} {
			if !in[w] || !out[w] {
				t.Errorf("%v: in %v, out %v", w, in[w], out[w])
			}
		}
	})
}

func TestMachinesAreOutOfReachAndTheirVolumesEncrypted(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, all map[string]resource) {
		templates := of(all, "AWS::EC2::LaunchTemplate")
		if want := len(rolesOf(all)); len(templates) != want {
			t.Errorf("%d launch templates, want %d, one for each role", len(templates), want)
		}
		for name, launch := range templates {
			data := launch.properties["LaunchTemplateData"].(map[string]any)
			metadata := data["MetadataOptions"].(map[string]any)
			if metadata["HttpTokens"] != "required" || metadata["HttpPutResponseHopLimit"] != "1" {
				t.Errorf("%s: IMDSv2 is not required, or containers reach it: %v", name, metadata)
			}
			if data["KeyName"] != nil || data["NetworkInterfaces"] != nil {
				t.Errorf("%s: has a key for ssh, or an interface of its own: %v", name, data)
			}
			if image := fmt.Sprint(data["ImageId"]); !regexp.MustCompile(`^resolve:ssm:/aws/service/debian/release/12/latest/(amd64|arm64)$`).MatchString(image) {
				t.Errorf("%s: image %s", name, image)
			}
			disks := list(data["BlockDeviceMappings"])
			if len(disks) == 0 {
				t.Errorf("%s: the root volume is not said to be encrypted", name)
			}
			for _, disk := range disks {
				if disk.(map[string]any)["Ebs"].(map[string]any)["Encrypted"] != "true" {
					t.Errorf("%s: volume %v is not encrypted", name, disk)
				}
			}
		}
		for name, volume := range of(all, "AWS::EC2::Volume") {
			if volume.properties["Encrypted"] != "true" || volume.whole["DeletionPolicy"] != "Snapshot" {
				t.Errorf("%s is not encrypted, or not kept", name)
			}
		}
		for name, database := range of(all, "AWS::RDS::DBInstance") {
			p := database.properties
			if p["StorageEncrypted"] != "true" || p["PubliclyAccessible"] != "false" || p["MultiAZ"] != "true" || database.whole["DeletionPolicy"] != "Snapshot" || p["MasterUserPassword"] != nil {
				t.Errorf("%s: %v", name, p)
			}
		}
		for name, subnet := range of(all, "AWS::EC2::Subnet") {
			if subnet.properties["MapPublicIpOnLaunch"] != nil {
				t.Errorf("%s gives machines public addresses", name)
			}
		}
		for name, group := range of(all, "AWS::AutoScaling::AutoScalingGroup") {
			for _, subnet := range list(group.properties["VPCZoneIdentifier"]) {
				if !strings.HasPrefix(subnet.(string), "ref:Private") {
					t.Errorf("%s has machines in %s", name, subnet)
				}
			}
		}
		for name, bucket := range of(all, "AWS::S3::Bucket") {
			public := bucket.properties["PublicAccessBlockConfiguration"].(map[string]any)
			if len(public) != 4 || strings.Contains(fmt.Sprint(public), "false") || bucket.properties["BucketEncryption"] == nil {
				t.Errorf("%s is not encrypted, or may be made public: %v", name, public)
			}
		}
	})
}

// withoutResources are the actions that IAM knows no resources for (docs.aws.amazon.com/service-authorization).
var withoutResources = []string{
	"autoscaling:DescribeAutoScalingGroups", "ecr:GetAuthorizationToken",
	"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
}

// allowed lists action and resource of everything that a role may do.
func allowed(t *testing.T, all map[string]resource, role string) (pairs []string) {
	t.Helper()
	documents := []any{}
	for _, policy := range list(all[role].properties["ManagedPolicyArns"]) {
		name, ours := strings.CutPrefix(policy.(string), "ref:")
		if !ours || all[name].kind != "AWS::IAM::ManagedPolicy" {
			t.Errorf("%s has %s: must be a policy of the template, since those of AWS allow more", role, policy)
			continue
		}
		documents = append(documents, all[name].properties["PolicyDocument"])
	}
	for _, policy := range list(all[role].properties["Policies"]) {
		documents = append(documents, policy.(map[string]any)["PolicyDocument"])
	}
	for _, document := range documents {
		for _, s := range document.(map[string]any)["Statement"].([]any) {
			statement := s.(map[string]any)
			if statement["Effect"] != "Allow" || statement["NotAction"] != nil || statement["NotResource"] != nil {
				t.Errorf("%s: statement %v is not a plain permission", role, statement)
			}
			for _, action := range list(statement["Action"]) {
				for _, resource := range list(statement["Resource"]) {
					pairs = append(pairs, action.(string)+" "+resource.(string))
				}
			}
		}
	}
	return pairs
}

func TestRolesMayDoWhatTheyDoAndNothingElse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, all map[string]resource) {
		for role := range of(all, "AWS::IAM::Role") {
			pairs := allowed(t, all, role)
			if len(pairs) == 0 {
				t.Errorf("%s may do nothing", role)
			}
			for _, pair := range pairs {
				action, resource, _ := strings.Cut(pair, " ")
				if strings.Contains(action, "*") {
					t.Errorf("%s may do %s", role, action)
				}
				if resource == "*" && !slices.Contains(withoutResources, action) {
					t.Errorf("%s may do %s to anything, although its resources can be named", role, action)
				}
				if resource != "*" && slices.Contains(withoutResources, action) {
					t.Errorf("%s: %s knows no resources, so %s allows nothing", role, action, resource)
				}
				secret := strings.HasPrefix(action, "ssm:Put") || strings.HasPrefix(action, "ssm:Delete") || strings.HasPrefix(resource, "att:State") ||
					strings.HasSuffix(resource, "/manager-token") || strings.HasSuffix(resource, "/basic-auth-password") || strings.HasPrefix(action, "autoscaling:") || strings.HasPrefix(action, "secretsmanager:")
				if secret && role != "ManagerRole" {
					t.Errorf("%s may do %s", role, pair)
				}
				if strings.HasPrefix(action, "ssm:") && strings.Contains(resource, ":parameter/") && (strings.Contains(resource, "*") || !strings.Contains(resource, ":parameter/waggle/demo/")) {
					t.Errorf("%s may reach parameters beyond its own: %s", role, pair)
				}
			}
			if !slices.Contains(pairs, "ssm:GetParameter arn:aws:ssm:eu-central-1:123456789012:parameter/waggle/demo/worker-token") {
				t.Errorf("%s cannot join", role)
			}
		}
	})
}

// Names in the template and in the scripts are the same: nothing but this test connects them.
func TestScriptsAndTemplateAgree(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, all map[string]resource) {
		common, tend := text(t, "common.sh"), text(t, "tend.sh")
		for line := range strings.Lines(all["Settings"].properties["Value"].(string)) {
			name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if !ok || value == "" || !regexp.MustCompile(`\b`+name+`\b`).MatchString(common) {
				t.Errorf("setting %q is empty, or common.sh does not read it", line)
			}
		}
		pairs := allowed(t, all, "ManagerRole")
		for role, count := range rolesOf(all) {
			name := strings.ToUpper(role[:1]) + role[1:]
			group := all[name+"Machines"]
			if group.properties["AutoScalingGroupName"] != "demo-"+role || group.properties["DesiredCapacity"] != count || group.properties["MaxSize"] != count {
				t.Errorf("%s: group %v", role, group.properties)
			}
			hook := list(group.properties["LifecycleHookSpecificationList"])[0].(map[string]any)
			if hook["LifecycleHookName"] != "drain" || hook["LifecycleTransition"] != "autoscaling:EC2_INSTANCE_TERMINATING" ||
				!strings.Contains(tend, "--lifecycle-hook-name drain") || !strings.Contains(tend, "empty_"+role+"()") {
				t.Errorf("%s: hook %v", role, hook)
			}
			for _, action := range []string{"autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"} {
				if want := action + " arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:*:autoScalingGroupName/demo-" + role; !slices.Contains(pairs, want) {
					t.Errorf("managers may not do %s", want)
				}
			}
			data := all[name+"Template"].properties["LaunchTemplateData"].(map[string]any)
			head := fmt.Sprintf("#!/bin/bash\nROLE=%s RESOURCE=%sMachines STACK=demo AWS_DEFAULT_REGION=eu-central-1\n", role, name)
			if script := data["UserData"].(string); strings.TrimSpace(script) != strings.TrimSpace(head+text(t, "user-data.sh")) || len(script) > 16<<10 {
				t.Errorf("%s: user data differs from user-data.sh:\n%s", role, script)
			}
		}
		if _, instance := all["StoreMachines"]; instance == (len(of(all, "AWS::RDS::DBInstance")) > 0) {
			t.Error("Postgres is to be a machine or RDS")
		} else if instance && (all["StoreVolume"].properties["AvailabilityZone"] != all["Private1"].properties["AvailabilityZone"] ||
			fmt.Sprint(all["StoreMachines"].properties["VPCZoneIdentifier"]) != "[ref:Private1]") {
			t.Error("the store's machine and its volume are not in one zone")
		}
		zones := map[any]bool{}
		for _, subnet := range list(all["ManagerMachines"].properties["VPCZoneIdentifier"]) {
			zones[all[strings.TrimPrefix(subnet.(string), "ref:")].properties["AvailabilityZone"]] = true
		}
		if len(zones) != 3 {
			t.Errorf("managers are in zones %v, want three", zones)
		}
	})
}

// rolesOf maps each role to how many machines it has by default.
func rolesOf(all map[string]resource) map[string]string {
	counts := map[string]string{"manager": "3", "edge": "2", "capture": "3", "worker": "2", "store": "1"}
	if len(of(all, "AWS::RDS::DBInstance")) > 0 {
		delete(counts, "store")
	}
	return counts
}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestScriptsPassShellcheck(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("*.sh")
	if err != nil || len(scripts) < 6 {
		t.Fatalf("scripts %v: %v", scripts, err)
	}
	scripts = append(scripts, "testdata/aws", "testdata/waggle")
	if out, err := exec.CommandContext(t.Context(), "shellcheck", append([]string{"--external-sources"}, scripts...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
