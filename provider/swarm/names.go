package swarm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

const (
	// maxName is Swarm's limit for the name of a service, and that of a DNS label.
	maxName = 63
	// maxSecretName is Swarm's limit for the name of a secret or config.
	maxSecretName = 64
)

var (
	namePattern       = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	secretNamePattern = regexp.MustCompile(`^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$`)
)

// checkName is the rule for functions and namespaces, which is that of OpenFaaS.
func checkName(field, name string) error {
	if len(name) > maxName || !namePattern.MatchString(name) {
		return failf(ErrInvalid, "%s is %q: must be 1 to %d of a-z, 0-9 and -, with a letter or digit at both ends", field, shorten(name), maxName)
	}
	return nil
}

// reservedNames are those of the system's own parts, by which they find each other: deploy/stack.yml's services. Docker's DNS
// gives a name on a network to whoever bears it there, and would lead calls for the part, passwords included, to a function.
var reservedNames = []string{"gateway", "localhost", "migrate", "postgres", "provider", "queue", "redis", "worker"}

// stackPrefix begins the names of the services that `make up` makes of them.
const stackPrefix = "waggle_"

// checkReserved refuses a function whose service would have the name of a part of the system.
func checkReserved(service string) error {
	part := strings.TrimPrefix(service, stackPrefix)
	if slices.Contains(reservedNames, part) {
		return failf(ErrInvalid, "service is %q: on the functions' network its name must be none of %s, nor one of these behind %s: parts of the system find each other by them",
			service, strings.Join(reservedNames, ", "), stackPrefix)
	}
	return nil
}

// checkAliases refuses a function's service whose name some other service answers to on a network.
func (c *Cluster) checkAliases(ctx context.Context, function string, spec swarm.ServiceSpec) error {
	found, err := c.docker.ServiceList(ctx, client.ServiceListOptions{})
	if err != nil {
		return dockerError("finding services of that name", err)
	}
	for _, service := range found.Items {
		aliases := []string{}
		for _, network := range service.Spec.TaskTemplate.Networks {
			aliases = append(aliases, network.Aliases...)
		}
		slices.Sort(aliases)
		if slices.Contains(aliases, spec.Name) {
			return failf(ErrInvalid, "service is %q: must be none of %s, to which the Swarm service %s answers", function, strings.Join(slices.Compact(aliases), ", "), service.Spec.Name)
		}
	}
	return nil
}

// checkSecretName is the rule for secrets: their name is also a file's.
func checkSecretName(field, name string) error {
	if len(name) > maxName || !secretNamePattern.MatchString(name) {
		return failf(ErrInvalid, "%s is %q: must be 1 to %d of a-z, A-Z, 0-9, -, _ and ., with a letter or digit at both ends", field, shorten(name), maxName)
	}
	return nil
}

// serviceName is the Swarm service's name of a function: its own in the default namespace, else
// <namespace>_<name>. The first kind has no underscore, the second has one, a shortened one has two in a row.
// So no name can be two functions'.
func serviceName(defaultNamespace, namespace, name string) string {
	if namespace == defaultNamespace {
		return name
	}
	return bounded(namespace+"_"+name, "__", maxName)
}

// bounded is name, or its beginning and a hash of all of it behind separator when it is longer than limit.
func bounded(name, separator string, limit int) string {
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	tail := separator + hex.EncodeToString(sum[:8])
	head := name[:limit-len(tail)]
	for head[len(head)-1] == '-' || head[len(head)-1] == '_' || head[len(head)-1] == '.' {
		head = head[:len(head)-1]
	}
	return head + tail
}

// shorten keeps an echoed value readable.
func shorten(value string) string {
	if len(value) <= 100 {
		return value
	}
	return value[:100] + "…"
}
