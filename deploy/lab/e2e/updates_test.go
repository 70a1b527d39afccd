//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"waggle/deploy/lab/testbed"
)

// testFailingUpdate scales a function while an update brings it replicas that do not start. Swarm goes back to the spec
// before its last change of any kind, so the scale must not come in between.
func (p *project) testFailingUpdate(t *testing.T) {
	d := p.probe("failing", nil)
	p.deploy(t, d)
	good := d.EnvVars
	d.EnvVars = maps.Clone(good)
	d.EnvVars["port"] = "none"
	p.call(t, http.MethodPut, "/system/functions", d, http.StatusAccepted)
	p.scaleTo(t, "failing", 2)
	testbed.Eventually(t, 2*time.Minute, func() error {
		if err := p.answers("/function/failing/x", "GET /x"); err != nil {
			t.Errorf("while the update fails: %v", err)
		}
		status, err := p.status(t, "failing")
		if err == nil && (status.AvailableReplicas != 2 || !maps.Equal(status.EnvVars, good)) {
			err = fmt.Errorf("%d replicas are available, with %v", status.AvailableReplicas, status.EnvVars)
		}
		return err
	})
}
