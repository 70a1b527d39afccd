package up

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

// registryFile is where the credentials of private registries are kept between runs: a Docker config.json, which the
// provider gets as a secret.
const registryFile = "registry-config"

// noRegistries is what is kept while there are none.
const noRegistries = "{}"

// ensureRegistries keeps what REGISTRY_CONFIG names, or goes on with what an earlier run has kept. It returns settings
// for the stack file: where that is, and a version, since a Swarm secret never changes and other content needs another name.
func (s *System) ensureRegistries() (env []string, err error) {
	kept, err := s.state.read(registryFile)
	if err != nil {
		return nil, err
	}
	wanted := kept
	if s.RegistryConfig != "" {
		text, err := os.ReadFile(s.RegistryConfig)
		if err != nil {
			return nil, fmt.Errorf("reading REGISTRY_CONFIG: %w", err)
		}
		if wanted, err = registries(text); err != nil {
			return nil, fmt.Errorf("REGISTRY_CONFIG is %q: %w", s.RegistryConfig, err)
		}
	}
	if wanted == "" {
		wanted = noRegistries
	}
	if wanted != kept {
		if err := s.state.write(registryFile, wanted); err != nil {
			return nil, err
		}
	}
	version := sha256.Sum256([]byte(wanted))
	return []string{"REGISTRY_CONFIG_FILE=" + s.state.path(registryFile), "REGISTRY_CONFIG_VERSION=" + hex.EncodeToString(version[:6])}, nil
}

// registries takes the credentials out of a Docker config.json, which may hold more that is nobody's business.
func registries(text []byte) (string, error) {
	var config struct {
		Auths map[string]struct {
			Auth     string `json:"auth,omitempty"`
			Username string `json:"username,omitempty"`
			Password string `json:"password,omitempty"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		// The parser's own words could quote a password.
		return "", fmt.Errorf("it is no Docker config.json; legal is {\"auths\":{\"<registry>\":{\"auth\":\"<base64 of user:password>\"}}}")
	}
	for name, auth := range config.Auths {
		if auth.Auth == "" && auth.Username == "" {
			return "", fmt.Errorf("it holds no credentials for %s: a credential helper keeps them elsewhere; legal is an entry with auth", name)
		}
	}
	kept, err := json.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("encoding the credentials: %w", err)
	}
	return string(kept), nil
}
