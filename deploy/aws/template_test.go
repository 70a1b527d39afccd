// Package aws has tests alone: of the template, and of the scripts that its machines run.
package aws

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// template is template.yml with each intrinsic function as a map of one key, as the long form of JSON has them.
type template struct {
	Parameters, Mappings, Conditions, Resources, Outputs map[string]any
}

func readTemplate(t *testing.T) template {
	t.Helper()
	text, err := os.ReadFile("template.yml")
	if err != nil {
		t.Fatal(err)
	}
	// What can be given to CloudFormation without a bucket.
	if len(text) > 51200 {
		t.Errorf("the template has %d bytes; more than 51200 cannot be given directly", len(text))
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	root := plain(t, document.Content[0]).(map[string]any)
	section := func(name string) map[string]any {
		found, ok := root[name].(map[string]any)
		if !ok {
			t.Fatalf("the template has no %s", name)
		}
		return found
	}
	return template{section("Parameters"), section("Mappings"), section("Conditions"), section("Resources"), section("Outputs")}
}

// plain turns YAML with CloudFormation's tags into maps, lists and strings. Numbers and booleans stay text: their type is
// the resource's affair.
func plain(t *testing.T, node *yaml.Node) any {
	t.Helper()
	var value any
	switch node.Kind {
	case yaml.ScalarNode:
		value = node.Value
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range node.Content {
			list = append(list, plain(t, item))
		}
		value = list
	case yaml.MappingNode:
		object := map[string]any{}
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i].Value
			if _, twice := object[key]; twice {
				t.Errorf("line %d: key %s stands twice", node.Content[i].Line, key)
			}
			object[key] = plain(t, node.Content[i+1])
		}
		value = object
	default:
		t.Fatalf("line %d: aliases are nothing that CloudFormation reads", node.Line)
	}
	tag := node.Tag
	if !strings.HasPrefix(tag, "!") || strings.HasPrefix(tag, "!!") {
		return value
	}
	switch name := strings.TrimPrefix(tag, "!"); name {
	case "Ref", "Condition":
		return map[string]any{name: value}
	case "GetAtt":
		resource, attribute, _ := strings.Cut(value.(string), ".")
		return map[string]any{"Fn::GetAtt": []any{resource, attribute}}
	default:
		return map[string]any{"Fn::" + name: value}
	}
}

// pseudo are the parameters that AWS gives.
var pseudo = map[string]any{
	"AWS::AccountId": "123456789012", "AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/demo/1",
	"AWS::StackName": "demo", "AWS::URLSuffix": "amazonaws.com", "AWS::NoValue": nothing{},
}

// nothing is what AWS::NoValue leaves.
type nothing struct{}

// attributes are those of each type that the template may ask for.
var attributes = map[string][]string{
	"AWS::EC2::EIP": {"AllocationId"}, "AWS::EC2::LaunchTemplate": {"LatestVersionNumber"}, "AWS::IAM::InstanceProfile": {"Arn"},
	"AWS::RDS::DBInstance": {"Endpoint.Address", "MasterUserSecret.SecretArn"},
	"AWS::S3::Bucket":      {"Arn"}, "AWS::ElasticLoadBalancingV2::LoadBalancer": {"DNSName"},
}

// resolver evaluates the template with one set of parameters. What only AWS knows becomes ref:NAME and att:NAME.ATTRIBUTE.
type resolver struct {
	t          *testing.T
	template   template
	parameters map[string]any
	used       map[string]bool
}

func newResolver(t *testing.T, given map[string]any) *resolver {
	t.Helper()
	r := &resolver{t: t, template: readTemplate(t), parameters: maps.Clone(pseudo), used: map[string]bool{}}
	for name, parameter := range r.template.Parameters {
		if value, ok := parameter.(map[string]any)["Default"]; ok {
			r.parameters[name] = value
		}
	}
	maps.Copy(r.parameters, required)
	maps.Copy(r.parameters, given)
	for name, value := range r.parameters {
		if _, ok := r.template.Parameters[name]; !ok && !strings.HasPrefix(name, "AWS::") {
			t.Errorf("parameter %s does not exist", name)
		} else if ok {
			legal(t, name, r.template.Parameters[name].(map[string]any), value.(string))
		}
	}
	return r
}

// required are the parameters without a default.
var required = map[string]any{
	"ReleaseBucket": "releases", "ReleaseKey": "waggle-1.2.3-linux-amd64.tar", "ReleaseChecksum": strings.Repeat("0a", 32),
}

// legal checks a value as CloudFormation does.
func legal(t *testing.T, name string, parameter map[string]any, value string) {
	t.Helper()
	if values, ok := parameter["AllowedValues"].([]any); ok && !slices.Contains(values, any(value)) {
		t.Errorf("%s may not be %q", name, value)
	}
	if pattern, ok := parameter["AllowedPattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(value) {
		t.Errorf("%s may not be %q", name, value)
	}
}

func (r *resolver) ref(name string) any {
	r.used[name] = true
	if value, ok := r.parameters[name]; ok {
		return value
	}
	if _, ok := r.template.Resources[name]; !ok {
		r.t.Errorf("Ref %s: there is no such parameter or resource", name)
	}
	return "ref:" + name
}

func (r *resolver) attribute(name, attribute string) any {
	r.used[name] = true
	resource, ok := r.template.Resources[name].(map[string]any)
	if !ok {
		r.t.Errorf("GetAtt %s.%s: there is no such resource", name, attribute)
		return nil
	}
	if kind := resource["Type"].(string); !slices.Contains(attributes[kind], attribute) {
		r.t.Errorf("GetAtt %s.%s: %s has %v", name, attribute, kind, attributes[kind])
	}
	return "att:" + name + "." + attribute
}

var substitution = regexp.MustCompile(`\$\{([A-Za-z0-9:.]+)\}`)

func (r *resolver) sub(argument any) string {
	text, own := "", map[string]any{}
	switch a := argument.(type) {
	case string:
		text = a
	case []any:
		text = a[0].(string)
		for name, value := range a[1].(map[string]any) {
			own[name] = r.resolve(value)
		}
	}
	for name := range own {
		if !strings.Contains(text, "${"+name+"}") {
			r.t.Errorf("Sub: %s is given and not used", name)
		}
	}
	return substitution.ReplaceAllStringFunc(text, func(match string) string {
		name := match[2 : len(match)-1]
		if value, ok := own[name]; ok {
			return fmt.Sprint(value)
		}
		if resource, attribute, ok := strings.Cut(name, "."); ok {
			return fmt.Sprint(r.attribute(resource, attribute))
		}
		return fmt.Sprint(r.ref(name))
	})
}

func (r *resolver) condition(name string) bool {
	r.used[name] = true
	body, ok := r.template.Conditions[name]
	if !ok {
		r.t.Errorf("there is no condition %s", name)
		return false
	}
	return r.resolve(body).(bool)
}

// resolve evaluates a value and everything in it.
func (r *resolver) resolve(value any) any {
	switch v := value.(type) {
	case []any:
		list := []any{}
		for _, item := range v {
			if resolved := r.resolve(item); resolved != (any)(nothing{}) {
				list = append(list, resolved)
			}
		}
		return list
	case map[string]any:
		if len(v) == 1 {
			for name, argument := range v {
				if name == "Ref" || strings.HasPrefix(name, "Fn::") {
					return r.function(name, argument)
				}
			}
		}
		object := map[string]any{}
		for name, item := range v {
			object[name] = r.resolve(item)
		}
		return object
	}
	return value
}

func (r *resolver) function(name string, argument any) any {
	list, _ := argument.([]any)
	switch name {
	case "Ref":
		return r.ref(argument.(string))
	case "Fn::GetAtt":
		return r.attribute(list[0].(string), list[1].(string))
	case "Fn::Sub":
		return r.sub(argument)
	case "Fn::Base64":
		return r.resolve(argument)
	case "Fn::If":
		if r.condition(list[0].(string)) {
			return r.resolve(list[1])
		}
		return r.resolve(list[2])
	case "Fn::Not":
		return !r.resolve(list[0]).(bool)
	case "Fn::Equals":
		return r.resolve(list[0]) == r.resolve(list[1])
	case "Fn::FindInMap":
		found := any(r.template.Mappings)
		for _, key := range list {
			level, _ := found.(map[string]any)
			name := r.resolve(key).(string)
			r.used[name] = true
			next, ok := level[name]
			if !ok {
				r.t.Errorf("FindInMap %v: there is no %s", list, name)
				return ""
			}
			found = next
		}
		return found
	case "Fn::GetAZs":
		return []any{"eu-central-1a", "eu-central-1b", "eu-central-1c"}
	case "Fn::Select":
		var index int
		if _, err := fmt.Sscan(list[0].(string), &index); err != nil {
			r.t.Errorf("Select %v: %v", list, err)
		}
		from := r.resolve(list[1]).([]any)
		if index >= len(from) {
			r.t.Errorf("Select %d of %d", index, len(from))
			return ""
		}
		return from[index]
	case "Fn::Cidr":
		return r.cidr(list)
	}
	r.t.Errorf("function %s is not one that this test knows", name)
	return nil
}

// cidr divides a network, as Fn::Cidr does: the last number is how many bits an address has within each part.
func (r *resolver) cidr(list []any) any {
	var count, bits int
	if _, err := fmt.Sscan(list[1].(string), &count); err != nil {
		r.t.Error(err)
	}
	if _, err := fmt.Sscan(list[2].(string), &bits); err != nil {
		r.t.Error(err)
	}
	whole := netip.MustParsePrefix(r.resolve(list[0]).(string))
	parts, address := []any{}, whole.Addr().As4()
	for i := range count {
		number := uint32(address[0])<<24 | uint32(address[1])<<16 | uint32(address[2])<<8 | uint32(address[3])
		number += uint32(i) << bits
		part := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)}), 32-bits)
		if !whole.Contains(part.Addr()) {
			r.t.Errorf("part %d of %s is outside of it", i, whole)
		}
		parts = append(parts, part.String())
	}
	return parts
}

// resource is one that exists with these parameters.
type resource struct {
	kind       string
	properties map[string]any
	whole      map[string]any
}

// resources evaluates all that exist.
func (r *resolver) resources() map[string]resource {
	r.t.Helper()
	found := map[string]resource{}
	for name, body := range r.template.Resources {
		whole := body.(map[string]any)
		if condition, ok := whole["Condition"].(string); ok && !r.condition(condition) {
			continue
		}
		resolved := r.resolve(whole).(map[string]any)
		properties, _ := resolved["Properties"].(map[string]any)
		found[name] = resource{resolved["Type"].(string), properties, resolved}
	}
	return found
}

// of selects the resources of a type.
func of(all map[string]resource, kind string) map[string]resource {
	selected := map[string]resource{}
	for name, r := range all {
		if r.kind == kind {
			selected[name] = r
		}
	}
	return selected
}

// choices are sets of parameters that reach every branch.
var choices = map[string]map[string]any{
	"defaults": {},
	"everything": {
		"Architecture": "arm64", "Images": "ecr", "Nat": "zone", "CertificateArn": "arn:aws:acm:eu-central-1:123456789012:certificate/0a-1b",
		"PublicOrigins": "https://vote.example", "PollsKey": "polls.json", "Copies": "2 require", "Database": "rds",
	},
}

func TestEveryReferenceResolvesAndNothingIsLeftOver(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	var last *resolver
	for _, given := range choices {
		r := newResolver(t, given)
		existing := r.resources()
		for name, res := range existing {
			var after []any
			switch depends := res.whole["DependsOn"].(type) {
			case string:
				after = []any{depends}
			case []any:
				after = depends
			}
			for _, other := range after {
				if _, ok := existing[other.(string)]; !ok {
					t.Errorf("%s depends on %s, which is not there", name, other)
				}
			}
		}
		// What exists refers to what exists.
		for name, res := range existing {
			for _, match := range regexp.MustCompile(`(?:ref|att):([A-Za-z0-9]+)`).FindAllStringSubmatch(fmt.Sprint(res.whole), -1) {
				if _, ok := existing[match[1]]; !ok {
					t.Errorf("%s refers to %s, which does not exist with %v", name, match[1], given)
				}
			}
		}
		for name, output := range r.template.Outputs {
			body := output.(map[string]any)
			if condition, ok := body["Condition"].(string); ok && !r.condition(condition) {
				continue
			}
			if value := r.resolve(body["Value"]); value == "" || body["Description"] == nil {
				t.Errorf("output %s has no value or no description", name)
			}
		}
		maps.Copy(used, r.used)
		last = r
	}
	for _, section := range []map[string]any{last.template.Parameters, last.template.Conditions, last.template.Mappings} {
		for name := range section {
			// Rules are CloudFormation's own affair, and use no parameter that nothing else does.
			if !used[name] {
				t.Errorf("%s is used by nothing", name)
			}
		}
	}
}

func TestParametersTakeNothingThatCannotWork(t *testing.T) {
	t.Parallel()
	for name, body := range readTemplate(t).Parameters {
		p := body.(map[string]any)
		pattern, hasPattern := p["AllowedPattern"].(string)
		_, hasValues := p["AllowedValues"]
		bounded := p["MinValue"] != nil && p["MaxValue"] != nil
		if p["Description"] == nil || !hasPattern && !hasValues && !bounded {
			t.Errorf("%s needs a description and what is legal: allowed values, a pattern, or a least and a most", name)
		}
		if hasPattern && (!strings.HasPrefix(pattern, "^") || !strings.HasSuffix(pattern, "$") || p["ConstraintDescription"] == nil) {
			t.Errorf("%s: pattern %s must span the whole value and be explained", name, pattern)
		}
		if value, ok := p["Default"].(string); ok {
			legal(t, name, p, value)
		}
	}
	for name, wrong := range map[string][]string{
		"ReleaseChecksum": {"", "ABC", strings.Repeat("0a", 31)}, "ReleaseKey": {"x.zip", "a b.tar"}, "ReleaseBucket": {"-x", "UPPER"},
		"PublicOrigins": {"vote.example", "https://vote.example/", "ftp://x"}, "CertificateArn": {"arn:aws:iam::123456789012:role/x", ""},
		"RedisMaxMemory": {"512", "1gb", "mb"}, "PollsKey": {"", "polls.yml"},
	} {
		pattern := readTemplate(t).Parameters[name].(map[string]any)["AllowedPattern"].(string)
		for _, value := range wrong {
			if regexp.MustCompile(pattern).MatchString(value) {
				t.Errorf("%s takes %q", name, value)
			}
		}
	}
}
