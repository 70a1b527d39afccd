//go:build e2e

package images

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"testing"
)

// A pulled image must trust what the machine trusts; here the base image stands for one that was pulled.
func TestHostCertificatesReachAPulledImage(t *testing.T) {
	t.Parallel()
	b := setup(t, Redis, nil)
	reference := "waggle-test/" + strings.ToLower(rand.Text()[:10]) + ":pulled"
	b.run("tag", Debian, reference)
	t.Cleanup(func() {
		if _, err := b.engine.Run(context.Background(), "rmi", reference); err != nil {
			t.Errorf("removing the image: %v", err)
		}
	})
	builder := Builder{}
	if err := builder.addHostBundle(t.Context(), reference); err != nil {
		t.Fatal(err)
	}
	bundle, err := os.ReadFile(hostBundle)
	if err != nil {
		t.Fatal(err)
	}
	got := b.run("run", "--rm", "--label="+testLabel, "--network=none", reference, "cat", hostBundle)
	if strings.TrimSpace(got) != strings.TrimSpace(string(bundle)) {
		t.Errorf("the image trusts %d bytes of certificates, the machine %d", len(got), len(bundle))
	}
}

func TestBuildKeepsTheReferenceOfAnUnchangedImage(t *testing.T) {
	t.Parallel()
	built, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	again, err := (&Builder{Root: "../.."}).Build(t.Context(), Redis)
	if err != nil {
		t.Fatal(err)
	}
	if again[Redis] != built[Redis] {
		t.Errorf("a second build gave %+v, the first %+v", again[Redis], built[Redis])
	}
	if _, err := (&Builder{Root: "../.."}).Build(t.Context(), "nginx"); err == nil || !strings.Contains(err.Error(), `image "nginx": it must be one of redis`) {
		t.Errorf("an unknown image: %v", err)
	}
}
