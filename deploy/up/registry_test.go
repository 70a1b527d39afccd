package up

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRegistriesAreKeptBetweenRuns(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newTestSystem(t, nil)
	ensure := func(config string) []string {
		t.Helper()
		s.RegistryConfig = config
		env, err := s.ensureRegistries()
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	content := func() string {
		text, err := os.ReadFile(s.state.path(registryFile))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	none := ensure("")
	if content() != noRegistries || !strings.HasPrefix(none[0], "REGISTRY_CONFIG_FILE=") {
		t.Errorf("without any: %q in %v", content(), none)
	}
	write(`{"auths":{"ghcr.io":{"auth":"YTpi"}},"HttpHeaders":{"X":"y"}}`)
	first := ensure(file)
	if want := `{"auths":{"ghcr.io":{"auth":"YTpi"}}}`; content() != want || slices.Equal(first, none) {
		t.Errorf("kept is %q, want %q under another version", content(), want)
	}
	if again := ensure(""); !slices.Equal(again, first) {
		t.Errorf("a later run without the setting has %v, want %v", again, first)
	}
	write(`{"auths":{}}`)
	if ensure(file); content() != `{"auths":{}}` {
		t.Errorf("a file without credentials leaves %q", content())
	}
}

func TestRegistriesMustHoldCredentials(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"user: hunter2":                  "no Docker config.json",
		`{"auths":{"ghcr.io":{}}}`:       "no credentials for ghcr.io",
		`{"auths":["hunter2"]}`:          "no Docker config.json",
		`{"auths":{"ghcr.io":"hunter2"}`: "no Docker config.json",
	} {
		if _, err := registries([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want an error with %q and no password", text, err, want)
		}
	}
	s := newTestSystem(t, func(c *Config) { c.RegistryConfig = "/nowhere" })
	if _, err := s.ensureRegistries(); err == nil || !strings.Contains(err.Error(), "REGISTRY_CONFIG") {
		t.Errorf("a file that is not there: %v", err)
	}
}
