package swarm

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/mount"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
)

// Annotations and labels by which a deployment says what only we understand. provider/README.md has their meaning.
const (
	annotationVolumes    = privatePrefix + "volumes"
	annotationNetworks   = privatePrefix + "networks"
	annotationPerNode    = privatePrefix + "max-replicas-per-node"
	annotationStopGrace  = privatePrefix + "stop-grace"
	annotationHealthPath = privatePrefix + "health.path"
	annotationIdempotent = privatePrefix + "idempotent"

	annotationRetryAttempts = "com.openfaas.retry.attempts"
	annotationRetryCodes    = "com.openfaas.retry.codes"
	annotationRetryMinWait  = "com.openfaas.retry.min_wait"
	annotationRetryMaxWait  = "com.openfaas.retry.max_wait"

	labelScaleMin  = "com.openfaas.scale.min"
	labelScaleMax  = "com.openfaas.scale.max"
	labelScaleZero = "com.openfaas.scale.zero"

	defaultMin = 1
	defaultMax = 20
	// maxReplicas bounds what one function may ask for, against typing errors.
	maxReplicas = 10_000

	defaultHealthPath = "/_/health"
	// defaultWriteTimeout is what OpenFaaS' watchdogs take when the function says nothing.
	defaultWriteTimeout = 30 * time.Second
	// maxInflight is more than any replica can hold, and small enough that a function's replicas times it, maxReplicas at
	// most, is a number still.
	maxInflight = 1_000_000
	// maxStopGrace bounds how long a removed replica may linger.
	maxStopGrace = 24 * time.Hour
)

// wishes is what a deployment asks for through labels, annotations and environment, parsed.
type wishes struct {
	min, max    uint64
	zero        bool
	maxInflight int
	idempotent  bool
	healthPath  string
	stopGrace   time.Duration
	perNode     uint64
	networks    []string
	mounts      []mount.Mount
	retry       *feed.Retry
	cors        *feed.CORS
	// execTimeout and writeTimeout are the function's own; 0: not set.
	execTimeout, writeTimeout time.Duration
}

// parseWishes reads them all and gives an error that names the first wrong one. Allow-lists are not looked at.
func parseWishes(d *types.FunctionDeployment) (wishes, error) {
	labels, annotations := deref(d.Labels), deref(d.Annotations)
	w := wishes{min: defaultMin, max: defaultMax, healthPath: defaultHealthPath}
	var err error
	if w.min, err = parseReplicas(labels, labelScaleMin, defaultMin, 0); err != nil {
		return wishes{}, err
	}
	if w.max, err = parseReplicas(labels, labelScaleMax, max(defaultMax, w.min), 1); err != nil {
		return wishes{}, err
	}
	if w.min > w.max {
		return wishes{}, failf(ErrInvalid, "label %s: %d is more than %s, %d", labelScaleMin, w.min, labelScaleMax, w.max)
	}
	w.zero = labels[labelScaleZero] == "true"
	if w.perNode, err = parseReplicas(annotations, annotationPerNode, 0, 0); err != nil {
		return wishes{}, err
	}
	if w.idempotent, err = parseBool(annotations, annotationIdempotent); err != nil {
		return wishes{}, err
	}
	if p, given := annotations[annotationHealthPath]; given {
		if !strings.HasPrefix(p, "/") || len(p) > 1024 || strings.ContainsAny(p, " \t\r\n#") {
			return wishes{}, failf(ErrInvalid, "annotation %s: %q; want a path that begins with /, without spaces", annotationHealthPath, shorten(p))
		}
		w.healthPath = p
	}
	if w.stopGrace, err = stopGrace(d.EnvVars, annotations); err != nil {
		return wishes{}, err
	}
	if w.networks, err = parseNetworks(annotations[annotationNetworks]); err != nil {
		return wishes{}, err
	}
	if w.mounts, err = parseVolumes(annotations[annotationVolumes]); err != nil {
		return wishes{}, err
	}
	if w.retry, err = parseRetry(annotations); err != nil {
		return wishes{}, err
	}
	if w.cors, err = parseCORS(annotations); err != nil {
		return wishes{}, err
	}
	w.execTimeout, w.writeTimeout = watchdogDuration(d.EnvVars["exec_timeout"], 0), watchdogDuration(d.EnvVars["write_timeout"], 0)
	if w.maxInflight, err = parseInflight(d.EnvVars["max_inflight"]); err != nil {
		return wishes{}, err
	}
	return w, nil
}

// parseInflight reads the function's own limit, which is its business: what its watchdog would not understand means no
// limit there either. A number that only a typing error explains is refused all the same, since we calculate with it.
func parseInflight(text string) (int, error) {
	n, err := strconv.Atoi(text) // of what is out of range it gives the nearest there is
	if n > maxInflight {
		return 0, failf(ErrInvalid, "environment max_inflight: %q; want a whole number from 0, which is no limit, to %d", shorten(text), maxInflight)
	}
	if err == nil && n > 0 {
		return n, nil
	}
	return 0, nil
}

func parseReplicas(values map[string]string, key string, absent, least uint64) (uint64, error) {
	text, given := values[key]
	if !given || text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > maxReplicas {
		return 0, failf(ErrInvalid, "%s: %q; want a whole number from %d to %d", key, shorten(text), least, maxReplicas)
	}
	return n, nil
}

func parseBool(values map[string]string, key string) (bool, error) {
	switch text := values[key]; text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, failf(ErrInvalid, "annotation %s: %q; want true or false", key, shorten(text))
	}
}

// stopGrace is the time between SIGTERM and SIGKILL: after SIGTERM a watchdog waits healthcheck_interval for its
// callers to notice and then up to write_timeout for running calls; two seconds more let it end by itself.
func stopGrace(env, annotations map[string]string) (time.Duration, error) {
	if text, given := annotations[annotationStopGrace]; given {
		grace, err := time.ParseDuration(text)
		if err != nil || grace < 0 || grace > maxStopGrace {
			return 0, failf(ErrInvalid, "annotation %s: %q; want a duration such as 30s, at most %s", annotationStopGrace, shorten(text), maxStopGrace)
		}
		return grace, nil
	}
	write := watchdogDuration(env["write_timeout"], defaultWriteTimeout)
	interval := watchdogDuration(env["healthcheck_interval"], write)
	return min(write+interval+2*time.Second, maxStopGrace), nil
}

// watchdogDuration reads a duration as watchdogs do: of Go, or whole seconds; anything else is their default.
func watchdogDuration(text string, absent time.Duration) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 && d < maxStopGrace {
		return d
	}
	return absent
}

func parseNetworks(text string) ([]string, error) {
	var networks []string
	for _, name := range splitList(text) {
		if !dockerName.MatchString(name) {
			return nil, failf(ErrInvalid, "annotation %s: %q; want names of networks, comma separated", annotationNetworks, shorten(name))
		}
		if !slices.Contains(networks, name) {
			networks = append(networks, name)
		}
	}
	return networks, nil
}

// dockerName is the engine's rule for the names of volumes and networks; it excludes every path, so that what passes
// can only be a named volume.
var dockerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

func parseVolumes(text string) ([]mount.Mount, error) {
	wrong := func(part string) error {
		return failf(ErrInvalid, "annotation %s: %q; want name:/path or name:/path:ro, comma separated", annotationVolumes, shorten(part))
	}
	var mounts []mount.Mount
	for _, part := range splitList(text) {
		fields := strings.Split(part, ":")
		if len(fields) < 2 || len(fields) > 3 || !dockerName.MatchString(fields[0]) {
			return nil, wrong(part)
		}
		target := fields[1]
		if !path.IsAbs(target) || path.Clean(target) != target || target == "/" {
			return nil, wrong(part)
		}
		if len(fields) == 3 && fields[2] != "ro" && fields[2] != "rw" {
			return nil, wrong(part)
		}
		if slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Target == target }) {
			return nil, failf(ErrInvalid, "annotation %s: two volumes at %s; want each path once", annotationVolumes, target)
		}
		mounts = append(mounts, mount.Mount{
			Type: mount.TypeVolume, Source: fields[0], Target: target, ReadOnly: len(fields) == 3 && fields[2] == "ro",
		})
	}
	return mounts, nil
}

func splitList(text string) []string {
	var parts []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

func deref(m *map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	return *m
}
