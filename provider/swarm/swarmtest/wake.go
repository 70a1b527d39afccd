package swarmtest

import (
	"testing"

	"waggle/provider/feed"
)

func wake(t *testing.T, b *bench) {
	wantError(t, "Wake of nobody", b.Wake(t.Context(), b.prefix+"nobody", ""), feed.ErrUnknownFunction)
	d := b.function(t, "sleeper")
	d.Labels = &map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.zero": "true"}
	b.deploy(t, d)
	if here, err := b.Deployed(t.Context(), d.Service, ""); err != nil || !here {
		t.Errorf("it is deployed: %v, %v", here, err)
	}
	for _, step := range []struct{ asleep, want uint64 }{{0, 2}, {3, 3}} {
		if err := b.Scale(t.Context(), "", d.Service, step.asleep); err != nil {
			t.Fatal(err)
		}
		if err := b.Wake(t.Context(), d.Service, ""); err != nil {
			t.Fatal(err)
		}
		if got := b.status(t, "", d.Service).Replicas; got != step.want {
			t.Errorf("woken at %d replicas: %d, want %d", step.asleep, got, step.want)
		}
	}
}
