package swarm

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
	annotationAutoscale  = privatePrefix + "autoscale"

	annotationWaitingPage = privatePrefix + "waiting.page"
	annotationWaitingText = privatePrefix + "waiting.text"

	annotationRetryAttempts = "com.openfaas.retry.attempts"
	annotationRetryCodes    = "com.openfaas.retry.codes"
	annotationRetryMinWait  = "com.openfaas.retry.min_wait"
	annotationRetryMaxWait  = "com.openfaas.retry.max_wait"

	defaultHealthPath = "/_/health"
	// defaultWriteTimeout is what OpenFaaS' watchdogs take when the function says nothing.
	defaultWriteTimeout = 30 * time.Second
	// maxInflight is more than any replica can hold, and small enough that a function's replicas times it, maxReplicas at
	// most, is a number still.
	maxInflight = 1_000_000
	// maxWaitingText is in bytes: some sentences, in any script.
	maxWaitingText = 1000
	// maxStopGrace bounds how long a removed replica may linger.
	maxStopGrace = 24 * time.Hour
	// maxWatchdogTimeout is more than any gateway waits.
	maxWatchdogTimeout = 24 * time.Hour
)

// options is what a deployment asks for through labels, annotations and environment, parsed.
type options struct {
	scale       feed.Scale
	unscaled    bool
	maxInflight int
	idempotent  bool
	healthPath  string
	// holdBrowsers and waitingText are about the page that a browser gets while the function starts.
	holdBrowsers bool
	waitingText  string
	stopGrace    time.Duration
	perNode      uint64
	networks     []string
	mounts       []mount.Mount
	retry        *feed.Retry
	cors         *feed.CORS
	// execTimeout and writeTimeout are the function's own; 0: not set.
	execTimeout, writeTimeout time.Duration
	limits                    quantities
	requests                  quantities
	// warnings are of what was accepted and yet may not do what the user means.
	warnings []string
}

// parseOptions reads them all. The error names every illegal one. The options returned with it have defaults in
// their places: a function deployed under older rules can still be served. Allow-lists are not checked.
func parseOptions(d *types.FunctionDeployment) (options, error) {
	var wrong mistakes
	labels := given{"label ", deref(d.Labels), &wrong}
	annotations := given{"annotation ", deref(d.Annotations), &wrong}
	environment := given{"environment variable ", d.EnvVars, &wrong}
	o := options{
		scale:        parseScale(labels),
		unscaled:     !annotations.boolean(annotationAutoscale, true),
		maxInflight:  parseInflight(environment),
		idempotent:   annotations.boolean(annotationIdempotent, false),
		healthPath:   parseHealthPath(annotations),
		holdBrowsers: !annotations.boolean(annotationWaitingPage, true),
		waitingText:  parseWaitingText(annotations),
		stopGrace:    parseStopGrace(annotations, environment),
		perNode:      annotations.whole(annotationPerNode, 0, 0, maxReplicas),
		networks:     parseNetworks(annotations),
		mounts:       parseVolumes(annotations),
		retry:        parseRetry(annotations),
		cors:         parseCORS(annotations),
		execTimeout:  watchdogDuration(d.EnvVars["exec_timeout"], 0),
		writeTimeout: watchdogDuration(d.EnvVars["write_timeout"], 0),
		warnings:     unknownScaleLabels(labels.values),
	}
	var raised, raisedToo []string
	o.limits, raised = parseQuantities("limits", d.Limits, &wrong)
	o.requests, raisedToo = parseQuantities("requests", d.Requests, &wrong)
	o.warnings = slices.Concat(o.warnings, raised, raisedToo)
	return o, wrong.err()
}

// Warnings says what of a deployment is accepted and yet may not do what its user means.
func Warnings(d types.FunctionDeployment) []string {
	o, _ := parseOptions(&d)
	return o.warnings
}

func parseHealthPath(annotations given) string {
	p := annotations.values[annotationHealthPath]
	switch {
	case p == "":
		return defaultHealthPath
	case !strings.HasPrefix(p, "/") || len(p) > 1024 || strings.ContainsAny(p, " \t\r\n#"):
		annotations.illegal(annotationHealthPath, p, "a path that begins with /, without spaces, of at most 1024 characters")
		return defaultHealthPath
	}
	return p
}

func parseWaitingText(annotations given) string {
	text := annotations.values[annotationWaitingText]
	if len(text) > maxWaitingText || !utf8.ValidString(text) {
		annotations.illegal(annotationWaitingText, text, "plain text of at most %d bytes", maxWaitingText)
		return ""
	}
	return text
}

// parseInflight reads the function's own limit, which is its business: what its watchdog would not understand means no
// limit there either. A number that only a typing error explains is refused all the same, since we calculate with it.
func parseInflight(environment given) int {
	text := environment.values["max_inflight"]
	n, err := strconv.Atoi(text) // of what is out of range it gives the nearest there is
	if n > maxInflight {
		environment.illegal("max_inflight", text, "a whole number from 0, which is no limit, to %d", maxInflight)
		return 0
	}
	if err == nil && n > 0 {
		return n
	}
	return 0
}

// parseStopGrace gives the time between SIGTERM and SIGKILL. After SIGTERM a watchdog waits
// healthcheck_interval for its callers to notice, then up to write_timeout for running calls. Two seconds more
// let it end by itself.
func parseStopGrace(annotations, environment given) time.Duration {
	write := watchdogDuration(environment.values["write_timeout"],
		max(defaultWriteTimeout, watchdogDuration(environment.values["exec_timeout"], 0)))
	interval := watchdogDuration(environment.values["healthcheck_interval"], write)
	return annotations.duration(annotationStopGrace, min(write+interval+2*time.Second, maxStopGrace), 0, maxStopGrace)
}

// watchdogDuration reads a duration as watchdogs do: of Go, or whole seconds; anything else is their default. More than
// a day is as good as a day.
func watchdogDuration(text string, absent time.Duration) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxWatchdogTimeout)
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return min(d, maxWatchdogTimeout)
	}
	return absent
}

func parseNetworks(annotations given) (networks []string) {
	for _, name := range splitList(annotations.values[annotationNetworks]) {
		if !dockerName.MatchString(name) {
			annotations.illegal(annotationNetworks, name, "names of networks, comma separated")
		} else if !slices.Contains(networks, name) {
			networks = append(networks, name)
		}
	}
	return networks
}

// dockerName is the engine's rule for the names of volumes and networks. It excludes every path, so only a
// named volume passes.
var dockerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$`)

func parseVolumes(annotations given) (mounts []mount.Mount) {
	for _, part := range splitList(annotations.values[annotationVolumes]) {
		m, ok := parseVolume(part)
		switch {
		case !ok:
			annotations.illegal(annotationVolumes, part, "name:/path or name:/path:ro, comma separated")
		case slices.ContainsFunc(mounts, func(other mount.Mount) bool { return other.Target == m.Target }):
			annotations.illegal(annotationVolumes, part, "one volume at each path")
		default:
			mounts = append(mounts, m)
		}
	}
	return mounts
}

func parseVolume(text string) (m mount.Mount, ok bool) {
	fields := strings.Split(text, ":")
	if len(fields) < 2 || len(fields) > 3 || !dockerName.MatchString(fields[0]) {
		return m, false
	}
	target := fields[1]
	if !path.IsAbs(target) || path.Clean(target) != target || target == "/" {
		return m, false
	}
	if len(fields) == 3 && fields[2] != "ro" && fields[2] != "rw" {
		return m, false
	}
	return mount.Mount{Type: mount.TypeVolume, Source: fields[0], Target: target, ReadOnly: len(fields) == 3 && fields[2] == "ro"}, true
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
