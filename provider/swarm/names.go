package swarm

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
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
		return failf(ErrInvalid, "%s: %q; want 1 to %d of a-z, 0-9 and -, with a letter or digit at both ends", field, shorten(name), maxName)
	}
	return nil
}

// checkSecretName is the rule for secrets: their name is also a file's.
func checkSecretName(field, name string) error {
	if len(name) > maxName || !secretNamePattern.MatchString(name) {
		return failf(ErrInvalid, "%s: %q; want 1 to %d of a-z, A-Z, 0-9, -, _ and ., with a letter or digit at both ends", field, shorten(name), maxName)
	}
	return nil
}

// serviceName is the Swarm service's name of a function: its own in the default namespace, else <namespace>_<name>.
// The first kind has no underscore, the second has one, and one that had to be shortened has two in a row, so that none
// can be mistaken for another.
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
