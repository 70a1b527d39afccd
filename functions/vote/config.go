package vote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// config is the function's environment and secrets.
type config struct {
	socket     string                                  // redis_socket: the node's Redis, default /run/votes/redis.sock
	user       string                                  // redis_user: default capture
	resultsURL string                                  // results_url: where the page links to the count; default none
	copies     copyMode                                // copies: 1, 2 prefer or 2 require; default 2 prefer
	peers      func(context.Context) ([]string, error) // copies_host: the capture nodes' Redis servers, host:port; default tasks.waggle_redis:6379
	copyUser   string                                  // copies_user: default copy

	origins *origins // public_origins: where browsers see the ballot, comma separated; default: what the request says
	trusted int      // trusted_proxies: how many proxies there are before the gateway; default 0
	// codeFiles has the hashes of ballot codes, imageFiles the pictures of options; tests give others than the binary's.
	codeFiles, imageFiles fs.FS
	keys                  *keys
	password              string
	copyPassword          string // secret redis-copies, unless copies is 1
	polls                 []poll
}

const maxSecret = maxPollFile

// configFromEnv reads it all; the error names everything that is wrong.
func configFromEnv(getenv func(string) string) (config, error) {
	setting := func(name, fallback string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return fallback
	}
	c := config{
		socket:     setting("redis_socket", "/run/votes/redis.sock"),
		user:       setting("redis_user", "capture"),
		resultsURL: getenv("results_url"),
		copyUser:   setting("copies_user", "copy"),
	}
	var errs []error
	mode, ok := copyModes[setting("copies", preferTwo.String())]
	if c.copies = mode; !ok {
		errs = append(errs, fmt.Errorf("copies=%q: must be 1, 2 prefer or 2 require", getenv("copies")))
	}
	host := setting("copies_host", "tasks.waggle_redis:6379")
	if _, _, err := net.SplitHostPort(host); err != nil {
		errs = append(errs, fmt.Errorf("copies_host=%q: must be host:port", host))
	}
	c.peers = lookUp(host)
	if !filepath.IsAbs(c.socket) {
		errs = append(errs, fmt.Errorf("redis_socket=%q: must be an absolute path", c.socket))
	}
	if u, err := url.Parse(c.resultsURL); err != nil || (u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("results_url=%q: must be a path or an http or https address", c.resultsURL))
	}
	c.codeFiles, c.imageFiles = codeFiles, imageFiles
	var err error
	c.origins, err = parseOrigins(getenv("public_origins"))
	errs = append(errs, err)
	if c.trusted, err = strconv.Atoi(setting("trusted_proxies", "0")); err != nil || c.trusted < 0 || c.trusted > 10 {
		errs = append(errs, fmt.Errorf("trusted_proxies=%q: must be 0 to 10", getenv("trusted_proxies")))
	}
	directory := setting("secret_mount_path", "/var/openfaas/secrets")
	secret := func(name string) string {
		text, err := readSecret(directory, name)
		errs = append(errs, err)
		return text
	}
	voterKeys, pollFile := secret("voter-keys"), secret("polls")
	c.password = strings.TrimRight(secret("redis-capture"), "\r\n")
	if c.copies != oneCopy {
		c.copyPassword = strings.TrimRight(secret("redis-copies"), "\r\n")
	}
	if err := errors.Join(errs...); err != nil {
		return config{}, err
	}
	c.keys, err = parseKeys(voterKeys)
	errs = append(errs, err)
	c.polls, err = parsePolls([]byte(pollFile))
	errs = append(errs, err)
	return c, errors.Join(errs...)
}

func readSecret(directory, name string) (string, error) {
	path := filepath.Join(directory, name)
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	if info.Size() > maxSecret {
		return "", fmt.Errorf("secret %s: %d bytes: at most %d are legal", name, info.Size(), maxSecret)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("secret %s: %w", name, err)
	}
	if len(strings.TrimSpace(string(data))) == 0 {
		return "", fmt.Errorf("secret %s: is empty", name)
	}
	return string(data), nil
}
