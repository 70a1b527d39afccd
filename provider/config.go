package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"waggle/provider/async"
	"waggle/provider/gateway"
)

// The roles of the binary.
const (
	roleProvider = "provider"
	roleGateway  = "gateway"
	roleAll      = "all"
)

// loopbackPort is the provider's in role all.
const loopbackPort = 8081

// config is the environment of the provider; the gateway's is [gateway.Config]. Names are those of OpenFaaS where it has one.
type config struct {
	// Role is provider, gateway or all (both in one process, the provider's API on loopback).
	Role string `envconfig:"role" default:"provider"`
	// Port is where the provider's API and feed listen.
	Port int `envconfig:"port" default:"8081"`
	// ReadTimeout and WriteTimeout bound a request and its answer, UpstreamTimeout what the Swarm may take in between.
	ReadTimeout     duration `envconfig:"read_timeout" default:"60s"`
	WriteTimeout    duration `envconfig:"write_timeout" default:"60s"`
	UpstreamTimeout duration `envconfig:"upstream_timeout" default:"55s"`
	// ShutdownTimeout is how long running calls may take to end once the process is asked to.
	ShutdownTimeout duration `envconfig:"shutdown_timeout" default:"10s"`
	// BasicAuth asks for the password in SecretMountPath on /system and /feed.
	BasicAuth       bool   `envconfig:"basic_auth" default:"true"`
	SecretMountPath string `envconfig:"secret_mount_path" default:"/run/secrets"`
	// LogLevel is debug, info, warn or error.
	LogLevel slog.Level `envconfig:"log_level" default:"info"`

	FunctionNamespace string `envconfig:"function_namespace" default:"openfaas-fn"`
	// FunctionUser is the uid:gid of functions; set but empty, each runs as its image says.
	FunctionUser     string `envconfig:"function_user" default:"12000:12000"`
	FunctionsNetwork string `envconfig:"functions_network" default:"waggle-functions"`
	// AllowedNetworks and AllowedVolumes are what annotations may name, comma separated.
	AllowedNetworks []string `envconfig:"allowed_networks"`
	AllowedVolumes  []string `envconfig:"allowed_volumes"`
	// SwarmControlSocket is the engine's other socket, where changes of tasks are told of; set but empty, it is not used.
	SwarmControlSocket string `envconfig:"swarm_control_socket" default:"/var/run/docker/swarm/control.sock"`
	// RegistryConfig is a Docker config.json with credentials of private registries; one that is missing holds none.
	RegistryConfig string `envconfig:"registry_config" default:"/run/secrets/registry-config"`
}

// duration is one of Go, such as 1m30s, or whole seconds, as OpenFaaS has them.
type duration time.Duration

// Decode implements envconfig.Decoder.
func (d *duration) Decode(text string) error {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		*d = duration(time.Duration(seconds) * time.Second)
		return nil
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q; want a duration such as 60s, or seconds", text)
	}
	*d = duration(parsed)
	return nil
}

// String shows it as Go writes durations.
func (d duration) String() string { return time.Duration(d).String() }

// MarshalText shows it in the log as String does.
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func loadConfig() (config, error) {
	var c config
	if err := loadEnv(&c); err != nil {
		return c, err
	}
	if c.Role == roleAll {
		// The variable port is the gateway's then, and the provider stays behind it, on loopback.
		c.Port = loopbackPort
	}
	return c, c.validate()
}

// loadGateway reads the gateway's part of the environment.
func loadGateway(c config) (gateway.Config, error) {
	var edge gateway.Config
	if err := loadEnv(&edge); err != nil {
		return edge, err
	}
	switch {
	case c.Role == roleAll:
		edge.ProviderURL = "http://127.0.0.1:" + strconv.Itoa(loopbackPort)
	case edge.ProviderURL == "":
		edge.ProviderURL = "http://provider:8081"
	}
	return edge, nil
}

// loadQueue reads the queue's part of the environment. Without a socket there is to be none.
func loadQueue(c config) (settings async.Config, wanted bool, err error) {
	if err := loadEnv(&settings); err != nil || settings.Socket == "" {
		return settings, false, err
	}
	password, err := os.ReadFile(filepath.Join(c.SecretMountPath, "redis-queue"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a Redis of one's own may ask for none
		return settings, false, fmt.Errorf("reading secret redis-queue: %w", err)
	}
	settings.Password = strings.TrimSpace(string(password))
	return settings, true, nil
}

// loadEnv fills a struct with envconfig tags from the environment. Envconfig looks for upper-case names only; those of
// OpenFaaS are lower-case, so they are offered in upper case as well.
func loadEnv(spec any) error {
	fields := reflect.TypeOf(spec).Elem()
	for i := range fields.NumField() {
		name := fields.Field(i).Tag.Get("envconfig")
		if value, set := os.LookupEnv(name); set && name != "" {
			if err := os.Setenv(strings.ToUpper(name), value); err != nil {
				return fmt.Errorf("reading the environment: %w", err)
			}
		}
	}
	if err := envconfig.Process("", spec); err != nil {
		return fmt.Errorf("reading the environment: %w", err)
	}
	return nil
}

func (c config) validate() error {
	var problems []error
	if c.Role != roleProvider && c.Role != roleGateway && c.Role != roleAll {
		problems = append(problems, fmt.Errorf("role: %q; want provider, gateway or all", c.Role))
	}
	if c.Role == roleGateway {
		return errors.Join(problems...) // the rest is the provider's
	}
	if c.Port < 1 || c.Port > 65535 {
		problems = append(problems, fmt.Errorf("port: %d; want 1 to 65535", c.Port))
	}
	for name, d := range map[string]duration{"read_timeout": c.ReadTimeout, "write_timeout": c.WriteTimeout,
		"upstream_timeout": c.UpstreamTimeout, "shutdown_timeout": c.ShutdownTimeout} {
		if d <= 0 {
			problems = append(problems, fmt.Errorf("%s: %s; want more than 0", name, d))
		}
	}
	if c.UpstreamTimeout > c.WriteTimeout {
		problems = append(problems, fmt.Errorf("upstream_timeout: %s; want at most write_timeout, %s, so that an error can still be answered", c.UpstreamTimeout, c.WriteTimeout))
	}
	return errors.Join(problems...)
}

// credentials reads the user and password of the API; both are "" without basic auth.
func (c config) credentials() (user, password string, err error) {
	if !c.BasicAuth {
		return "", "", nil
	}
	if user, err = readSecret(c.SecretMountPath, "basic-auth-user"); err != nil {
		return "", "", err
	}
	password, err = readSecret(c.SecretMountPath, "basic-auth-password")
	return user, password, err
}

func readSecret(dir, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("reading secret %s (secret_mount_path, or set basic_auth=false): %w", name, err)
	}
	value := strings.TrimSpace(string(text))
	if value == "" {
		return "", fmt.Errorf("reading secret %s: it is empty", name)
	}
	return value, nil
}

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
