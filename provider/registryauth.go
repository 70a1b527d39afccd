package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"waggle/provider/settings"
)

// registryAuth reads a Docker config.json and gives what Docker's X-Registry-Auth header takes for a registry's host,
// "" being Docker Hub. It reads the file at each call: a secret that is rotated needs no restart.
func registryAuth(path string, logger *slog.Logger) func(host string) string {
	return func(host string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				logger.Warn("registry credentials cannot be read", "file", path, "error", err)
			}
			return ""
		}
		header, err := authHeader(text, host)
		if err != nil {
			logger.Warn("registry credentials cannot be read", "file", path, "error", err)
		}
		return header
	}
}

func authHeader(dockerConfig []byte, host string) (string, error) {
	var parsed struct {
		Auths map[string]struct{ Auth, Username, Password string }
	}
	if err := json.Unmarshal(dockerConfig, &parsed); err != nil {
		return "", errors.New("not a Docker config.json") // the parser's own words could quote a password
	}
	names := []string{host, "https://" + host, "http://" + host}
	if host == "" || host == "docker.io" {
		names = []string{"https://index.docker.io/v1/", "index.docker.io", "docker.io"}
	}
	for _, name := range names {
		entry, found := parsed.Auths[name]
		if !found {
			continue
		}
		user, password := entry.Username, entry.Password
		if entry.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(entry.Auth)
			if err != nil {
				return "", fmt.Errorf("auths.%s.auth: not base64", name)
			}
			user, password, _ = strings.Cut(string(plain), ":")
		}
		header, err := json.Marshal(map[string]string{"username": user, "password": password, "serveraddress": names[0]})
		if err != nil {
			return "", fmt.Errorf("encoding credentials: %w", err)
		}
		return base64.URLEncoding.EncodeToString(header), nil
	}
	return "", nil
}

// checkRegistryConfig says what is wrong with the file that registryAuth is to read.
func checkRegistryConfig(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = authHeader(text, "")
	}
	if err != nil {
		return settings.Mistake("registry_config", path, "a Docker config.json: %w", err)
	}
	return nil
}
