package swarm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"

	"waggle/provider/swarm"
	"waggle/provider/swarm/swarmtest"
)

func TestImages(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		setup          func(*swarmtest.Engine)
		image          string
		runs, identity string
		refused        string
	}{
		"built here": {func(e *swarmtest.Engine) { e.AddImage("vote:1", "sha256:a") }, "vote:1", "vote:1", "sha256:a", ""},
		"built here, and another on the Hub": {func(e *swarmtest.Engine) {
			e.AddImage("vote:1", "sha256:a")
			e.AddRemoteImage("vote:1", "sha256:d", "")
		}, "vote:1", "vote:1", "sha256:a", ""},
		"in a registry": {func(e *swarmtest.Engine) { e.AddRemoteImage("me/vote:1", "sha256:d", "") }, "me/vote:1", "me/vote:1@sha256:d", "sha256:d", ""},
		"by digest":     {func(e *swarmtest.Engine) { e.AddRemoteImage("me/vote@sha256:d", "sha256:d", "") }, "me/vote@sha256:d", "me/vote@sha256:d", "sha256:d", ""},
		"pulled, newer in registry": {func(e *swarmtest.Engine) {
			e.AddPulledImage("me/vote:1", "sha256:old")
			e.AddRemoteImage("me/vote:1", "sha256:new", "")
		}, "me/vote:1", "me/vote:1@sha256:new", "sha256:new", ""},
		"pulled, registry away":     {func(e *swarmtest.Engine) { e.AddPulledImage("me/vote:1", "sha256:old") }, "me/vote:1", "me/vote:1", "sha256:old", ""},
		"private, with password":    {func(e *swarmtest.Engine) { e.AddRemoteImage("ghcr.io/me/vote:1", "sha256:p", "pw of ghcr.io") }, "ghcr.io/me/vote:1", "ghcr.io/me/vote:1@sha256:p", "sha256:p", ""},
		"private, without password": {func(e *swarmtest.Engine) { e.AddRemoteImage("quay.io/me/vote:1", "sha256:p", "secret") }, "quay.io/me/vote:1", "", "", "may require authorization"},
		"nowhere":                   {func(*swarmtest.Engine) {}, "me/none:1", "", "", "pull access denied for me/none:1"},
		"no name":                   {func(*swarmtest.Engine) {}, " ", "", "", "image"},
		"a query in it":             {func(*swarmtest.Engine) {}, "a?b=c", "", "", "image"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine := swarmtest.NewEngine("waggle-functions")
			test.setup(engine)
			cluster, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet(), RegistryAuth: func(host string) string {
				if host == "ghcr.io" {
					return "pw of ghcr.io"
				}
				return ""
			}})
			if err != nil {
				t.Fatal(err)
			}
			err = cluster.Deploy(t.Context(), types.FunctionDeployment{Service: "fn", Image: test.image})
			if test.refused != "" {
				if !errors.Is(err, swarm.ErrInvalid) || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("got %v; want it refused with %q", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if runs, identity := engine.ImageOf("fn"); runs != test.runs || identity != test.identity {
				t.Errorf("runs %s as %s; want %s as %s", runs, identity, test.runs, test.identity)
			}
			status, err := cluster.Status(t.Context(), "", "fn", false)
			if err != nil || status.Image != test.image {
				t.Errorf("described as %q, %v; want %q", status.Image, err, test.image)
			}
		})
	}
}

// TestANewImageUnderAnOldTagRolls: without a registry nothing but the image's id tells.
func TestANewImageUnderAnOldTagRolls(t *testing.T) {
	t.Parallel()
	engine, cluster := newCluster(t)
	deploy(t, cluster, "fn", 1)
	before := engine.TaskIDs()
	engine.AddImage(testImage, "sha256:2")
	if err := cluster.Update(t.Context(), types.FunctionDeployment{Service: "fn", Image: testImage}); err != nil {
		t.Fatal(err)
	}
	if after := engine.TaskIDs(); len(after) != len(before)+1 {
		t.Errorf("tasks %v, then %v; want one new", before, after)
	}
	if _, identity := engine.ImageOf("fn"); identity != "sha256:2" {
		t.Errorf("runs as %s", identity)
	}
}

// FuzzImage deploys under any name. The name is refused with a reason or runs, and never causes an error of
// ours. Only the password of the name's own host is asked for.
func FuzzImage(f *testing.F) {
	for _, name := range []string{"", "vote:1", "ghcr.io/me/vote:1", "localhost/a", "a.b:5000/c@sha256:d", "../x", "a/b?c", "https://ghcr.io/me/vote", "ghcr.io", "\x00/b.c/d"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		engine := swarmtest.NewEngine("waggle-functions")
		engine.AddRemoteImage(name, "sha256:d", "")
		cluster, err := swarm.New(swarm.Config{Docker: engine, Logger: quiet(), RegistryAuth: func(host string) string {
			if host != "" && (!strings.HasPrefix(name, host+"/") || strings.Contains(host, "/")) {
				t.Errorf("%q: the password of %q is asked for", name, host)
			}
			return ""
		}})
		if err != nil {
			t.Fatal(err)
		}
		err = cluster.Deploy(t.Context(), types.FunctionDeployment{Service: "fn", Image: name})
		if err != nil && (!errors.Is(err, swarm.ErrInvalid) || !strings.Contains(err.Error(), "image")) {
			t.Errorf("%q: %v", name, err)
		}
	})
}
