package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ReadSecret reads a file of dir. A line break at its end is no part of the secret. The error says which secret is
// missing or empty; errors.Is finds fs.ErrNotExist in that of one that is missing.
func ReadSecret(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("secret %s is missing: must be a file %s (%w)", name, path, fs.ErrNotExist)
	}
	if err != nil {
		return "", fmt.Errorf("secret %s cannot be read: must be a readable file: %w", name, err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	if value == "" {
		return "", fmt.Errorf("secret %s is empty: must be a password in %s", name, path)
	}
	return value, nil
}
