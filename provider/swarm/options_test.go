package swarm

import (
	"errors"
	"path"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/mount"
	"github.com/openfaas/faas-provider/types"

	"waggle/provider/feed"
)

func TestParseOptions(t *testing.T) {
	t.Parallel()
	base := options{scale: defaultScale, healthPath: "/_/health", stopGrace: 62 * time.Second}
	with := func(change func(*options)) options {
		w := base
		change(&w)
		return w
	}
	for name, test := range map[string]struct {
		labels, annotations, env map[string]string
		want                     options
		wrong                    string
	}{
		"nothing asked for":          {want: base},
		"grace from timeouts":        {env: map[string]string{"write_timeout": "5s", "healthcheck_interval": "3"}, want: with(func(o *options) { o.stopGrace, o.writeTimeout = 10*time.Second, 5*time.Second })},
		"a day is the most":          {env: map[string]string{"exec_timeout": "48h"}, want: with(func(o *options) { o.stopGrace, o.execTimeout = maxStopGrace, 24*time.Hour })},
		"grace from one timeout":     {env: map[string]string{"write_timeout": "4"}, want: with(func(o *options) { o.stopGrace, o.writeTimeout = 10*time.Second, 4*time.Second })},
		"time for one call":          {env: map[string]string{"exec_timeout": "5m"}, want: with(func(o *options) { o.stopGrace, o.execTimeout = 602*time.Second, 5*time.Minute })},
		"every origin":               {annotations: map[string]string{annotationCORSOrigins: "*"}, want: with(func(o *options) { o.cors = &feed.CORS{Origins: []string{"*"}} })},
		"origin with a path":         {annotations: map[string]string{annotationCORSOrigins: "https://a.example/x"}, wrong: annotationCORSOrigins},
		"origin without a scheme":    {annotations: map[string]string{annotationCORSOrigins: "a.example"}, wrong: annotationCORSOrigins},
		"every origin and another":   {annotations: map[string]string{annotationCORSOrigins: "*,https://a.example"}, wrong: annotationCORSOrigins},
		"every origin's credentials": {annotations: map[string]string{annotationCORSOrigins: "*", annotationCORSCredentials: "true"}, wrong: annotationCORSCredentials},
		"origins": {annotations: map[string]string{annotationCORSOrigins: "https://a.example, http://b.example:81", annotationCORSCredentials: "true"},
			want: with(func(o *options) {
				o.cors = &feed.CORS{Origins: []string{"https://a.example", "http://b.example:81"}, Credentials: true}
			})},
		"timeouts of nonsense":   {env: map[string]string{"write_timeout": "x", "healthcheck_interval": "-1s"}, want: base},
		"grace asked for":        {annotations: map[string]string{annotationStopGrace: "1m30s"}, want: with(func(o *options) { o.stopGrace = 90 * time.Second })},
		"grace of nonsense":      {annotations: map[string]string{annotationStopGrace: "soon"}, wrong: annotationStopGrace},
		"grace negative":         {annotations: map[string]string{annotationStopGrace: "-1s"}, wrong: annotationStopGrace},
		"grace beyond reason":    {annotations: map[string]string{annotationStopGrace: "100h"}, wrong: annotationStopGrace},
		"per node":               {annotations: map[string]string{annotationPerNode: "2"}, want: with(func(o *options) { o.perNode = 2 })},
		"per node of nonsense":   {annotations: map[string]string{annotationPerNode: "x"}, wrong: annotationPerNode},
		"idempotent":             {annotations: map[string]string{annotationIdempotent: "true"}, want: with(func(o *options) { o.idempotent = true })},
		"idempotent of nonsense": {annotations: map[string]string{annotationIdempotent: "yes"}, wrong: annotationIdempotent},
		"health path":            {annotations: map[string]string{annotationHealthPath: "/up?x=1"}, want: with(func(o *options) { o.healthPath = "/up?x=1" })},
		"health path relative":   {annotations: map[string]string{annotationHealthPath: "up"}, wrong: annotationHealthPath},
		"health path of lines":   {annotations: map[string]string{annotationHealthPath: "/a\r\nX: y"}, wrong: annotationHealthPath},
		"waiting page":           {annotations: map[string]string{annotationWaitingPage: "false", annotationWaitingText: "Bitte warten, <b>gleich</b>."}, want: with(func(o *options) { o.holdBrowsers, o.waitingText = true, "Bitte warten, <b>gleich</b>." })},
		"waiting page, nonsense": {annotations: map[string]string{annotationWaitingPage: "hold"}, wrong: annotationWaitingPage},
		"waiting text too long":  {annotations: map[string]string{annotationWaitingText: strings.Repeat("x", 1001)}, wrong: annotationWaitingText},
		"waiting text, no text":  {annotations: map[string]string{annotationWaitingText: "\xff"}, wrong: annotationWaitingText},
		"in-flight":              {env: map[string]string{"max_inflight": "100"}, want: with(func(o *options) { o.maxInflight = 100 })},
		"in-flight of a million": {env: map[string]string{"max_inflight": "1000000"}, want: with(func(o *options) { o.maxInflight = 1_000_000 })},
		"in-flight beyond that":  {env: map[string]string{"max_inflight": "1000001"}, wrong: "from 0, which is no limit, to 1000000"},
		"in-flight to overflow":  {env: map[string]string{"max_inflight": "9223372036854775807"}, wrong: "max_inflight"},
		"in-flight out of range": {env: map[string]string{"max_inflight": "99999999999999999999"}, wrong: "max_inflight"},
		"in-flight negative":     {env: map[string]string{"max_inflight": "-99999999999999999999"}, want: base},
		"in-flight of nonsense":  {env: map[string]string{"max_inflight": "x"}, want: base},
		"networks":               {annotations: map[string]string{annotationNetworks: "a, b,a,"}, want: with(func(o *options) { o.networks = []string{"a", "b"} })},
		"network of nonsense":    {annotations: map[string]string{annotationNetworks: "a b"}, wrong: annotationNetworks},
		"volumes": {annotations: map[string]string{annotationVolumes: "v:/run/v, w:/w:ro"}, want: with(func(o *options) {
			o.mounts = []mount.Mount{{Type: mount.TypeVolume, Source: "v", Target: "/run/v"}, {Type: mount.TypeVolume, Source: "w", Target: "/w", ReadOnly: true}}
		})},
		"retries": {annotations: map[string]string{annotationRetryAttempts: "0", annotationRetryCodes: "429, 503,429",
			annotationRetryMinWait: "0s", annotationRetryMaxWait: "1m"}, want: with(func(o *options) {
			o.retry = &feed.Retry{Attempts: new(0), Codes: []int{429, 503}, MinWait: new(time.Duration(0)), MaxWait: new(time.Minute)}
		})},
		"one setting of retries": {annotations: map[string]string{annotationRetryMaxWait: "5m"}, want: with(func(o *options) {
			o.retry = &feed.Retry{MaxWait: new(5 * time.Minute)}
		})},
		"retries of nonsense":    {annotations: map[string]string{annotationRetryAttempts: "many"}, wrong: annotationRetryAttempts},
		"retries beyond reason":  {annotations: map[string]string{annotationRetryAttempts: "1001"}, wrong: annotationRetryAttempts},
		"retry code of success":  {annotations: map[string]string{annotationRetryCodes: "200"}, wrong: annotationRetryCodes},
		"retry code of nonsense": {annotations: map[string]string{annotationRetryCodes: "5xx"}, wrong: annotationRetryCodes},
		"no retry code":          {annotations: map[string]string{annotationRetryCodes: ","}, wrong: annotationRetryCodes},
		"retry wait of nonsense": {annotations: map[string]string{annotationRetryMinWait: "5"}, wrong: annotationRetryMinWait},
		"retry wait negative":    {annotations: map[string]string{annotationRetryMaxWait: "-1s"}, wrong: annotationRetryMaxWait},
		"retry wait too long":    {annotations: map[string]string{annotationRetryMaxWait: "25h"}, wrong: annotationRetryMaxWait},
		"retry waits crossed":    {annotations: map[string]string{annotationRetryMinWait: "2m", annotationRetryMaxWait: "1m"}, wrong: annotationRetryMinWait},
		"volume without path":    {annotations: map[string]string{annotationVolumes: "v"}, wrong: annotationVolumes},
		"volume of a host path":  {annotations: map[string]string{annotationVolumes: "/etc:/etc"}, wrong: annotationVolumes},
		"volume of dots":         {annotations: map[string]string{annotationVolumes: "..:/x"}, wrong: annotationVolumes},
		"volume at root":         {annotations: map[string]string{annotationVolumes: "v:/"}, wrong: annotationVolumes},
		"volume at dots":         {annotations: map[string]string{annotationVolumes: "v:/a/../b"}, wrong: annotationVolumes},
		"volume of a mode":       {annotations: map[string]string{annotationVolumes: "v:/a:exec"}, wrong: annotationVolumes},
		"two volumes at a place": {annotations: map[string]string{annotationVolumes: "v:/a,w:/a"}, wrong: annotationVolumes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseOptions(&types.FunctionDeployment{Labels: &test.labels, Annotations: &test.annotations, EnvVars: test.env})
			if test.wrong != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("got %+v, %v; want an error about %s", got, err, test.wrong)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

func FuzzVolumes(f *testing.F) {
	for _, text := range []string{"a:/b", "a:/b:ro,c:/d", "/a:/b", "../a:/b", "a:b", ":", ",,", "a:/b/../c", "a:/\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mounts := parseVolumes(given{"annotation ", map[string]string{annotationVolumes: text}, &mistakes{}})
		for _, m := range mounts {
			if m.Type != mount.TypeVolume || strings.ContainsAny(m.Source, "/\\:") || strings.HasPrefix(m.Source, ".") || !path.IsAbs(m.Target) || m.Target == "/" {
				t.Errorf("%q: %+v", text, m)
			}
		}
	})
}

// FuzzOptions sets every key that has a meaning: what is let through is within its bounds.
func FuzzOptions(f *testing.F) {
	for _, text := range []string{"", "0", "1", "20", "-1", "10001", "1e3", "true", "30s", "-30s", "25h", "9223372036854775807", "/x", "/ x", "a,b", ","} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		w, err := parseOptions(&types.FunctionDeployment{
			Annotations: &map[string]string{annotationPerNode: b, annotationIdempotent: a, annotationStopGrace: b,
				annotationHealthPath: a, annotationNetworks: b, annotationRetryAttempts: a, annotationRetryCodes: b,
				annotationRetryMinWait: a, annotationRetryMaxWait: b},
			EnvVars: map[string]string{"max_inflight": a, "write_timeout": b},
		})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%q, %q: %v", a, b, err)
			}
			w, err = parseOptions(&types.FunctionDeployment{EnvVars: map[string]string{"max_inflight": a, "write_timeout": a, "healthcheck_interval": b}})
			if err != nil && !strings.Contains(err.Error(), "max_inflight") {
				t.Fatalf("%q, %q: the function's own settings are no mistake of the request: %v", a, b, err)
			}
			if err != nil {
				return
			}
		}
		if w.perNode > maxReplicas || w.stopGrace < 0 || w.stopGrace > maxStopGrace ||
			w.maxInflight < 0 || w.maxInflight > maxInflight || !strings.HasPrefix(w.healthPath, "/") || strings.ContainsAny(w.healthPath, "\r\n ") {
			t.Errorf("%q, %q: %+v", a, b, w)
		}
	})
}
