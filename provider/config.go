package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"time"

	"waggle/provider/async"
	"waggle/provider/gateway"
	"waggle/provider/settings"
	"waggle/provider/swarm"
)

// The roles of the binary.
const (
	roleProvider = "provider"
	roleGateway  = "gateway"
	roleAll      = "all"
)

// loopbackPort is the provider's in role all, where the setting port is the gateway's.
const loopbackPort = 8081

// config is the settings of one process: what every role reads, and the parts that its role has.
type config struct {
	common
	provider providerConfig
	gateway  gateway.Config
	queue    async.Config // of the gateway; none without its Socket

	credentials settings.Credentials // of the API, from files
}

// common are the settings that every role reads. Names are those of OpenFaaS where it has one.
type common struct {
	// Role is provider, gateway or all: both in one process, the provider's API on loopback.
	Role string `envconfig:"role" default:"provider" legal:"provider|gateway|all"`
	// BasicAuth asks for the user and password in SecretMountPath on /system and /feed.
	BasicAuth       bool   `envconfig:"basic_auth" default:"true"`
	SecretMountPath string `envconfig:"secret_mount_path" default:"/run/secrets"`
	// FunctionNamespace is the namespace of functions that are addressed without one.
	FunctionNamespace string     `envconfig:"function_namespace" default:"openfaas-fn"`
	LogLevel          slog.Level `envconfig:"log_level" default:"info"`
}

// providerConfig is the settings of the provider alone.
type providerConfig struct {
	server
	// FunctionsNetwork is the overlay that every function is on.
	FunctionsNetwork string `envconfig:"functions_network" default:"waggle-functions"`
	// FunctionUser is the uid:gid of functions; set but empty, each runs as its image says.
	FunctionUser string `envconfig:"function_user" default:"12000:12000"`
	// AllowedNetworks and AllowedVolumes are what annotations may name, comma separated.
	AllowedNetworks []string `envconfig:"allowed_networks"`
	AllowedVolumes  []string `envconfig:"allowed_volumes"`
	// FunctionsGateway is the host:port of the gateway that is asked for /function/ on the provider's own port; empty: the
	// replicas themselves are.
	FunctionsGateway string `envconfig:"functions_gateway"`
	// Autoscale lets functions follow their load; false leaves their numbers of replicas to operators and alerts.
	Autoscale bool `envconfig:"autoscale" default:"true"`
	// AutoscaleRecord is a file that takes all that the autoscaler is told and decides, to be read by autoscale replay; none
	// is kept by default. It ends at 256 MiB.
	AutoscaleRecord string `envconfig:"autoscale_record"`
	// FunctionLabel adds the label faas_function to what the API says of a function, as OpenFaaS on Kubernetes does.
	FunctionLabel bool `envconfig:"function_label" default:"false"`
	// RegistryConfig is a Docker config.json with credentials of private registries; one that is missing holds none.
	RegistryConfig string `envconfig:"registry_config" default:"/run/secrets/registry-config"`
	// SwarmControlSocket is the engine's other socket, which sends task events; set but empty, it is not used.
	SwarmControlSocket string `envconfig:"swarm_control_socket" default:"/var/run/docker/swarm/control.sock"`
}

// server is how the provider's API and feed are served. The gateway has settings of the same names, which apply in
// role all. The provider is behind it then, on loopback, with these defaults.
type server struct {
	Port int `envconfig:"port" default:"8081" legal:"1 to 65535"`
	// ReadTimeout and WriteTimeout bound a request and its answer, UpstreamTimeout what the Swarm may take in between.
	ReadTimeout     time.Duration `envconfig:"read_timeout" default:"60s" legal:"1s to 24h"`
	WriteTimeout    time.Duration `envconfig:"write_timeout" default:"60s" legal:"1s to 24h"`
	UpstreamTimeout time.Duration `envconfig:"upstream_timeout" default:"55s" legal:"1s to 24h"`
	// ShutdownTimeout is how long running calls may take to end once the process is asked to.
	ShutdownTimeout time.Duration `envconfig:"shutdown_timeout" default:"10s" legal:"1s to 24h"`
}

func (c common) hasProvider() bool { return c.Role != roleGateway }
func (c common) hasGateway() bool  { return c.Role != roleProvider }
func (c config) hasQueue() bool    { return c.hasGateway() && c.queue.Socket != "" }

// loadConfig reads the environment and the files with passwords. Every mistake has a line of its own in the error.
func loadConfig() (config, error) {
	var c config
	mistakes := []error{settings.Load(&c.common), settings.Check(c.common)}
	if c.hasProvider() {
		mistakes = append(mistakes, c.loadProvider(), c.cluster().Validate())
	}
	if c.hasGateway() {
		mistakes = append(mistakes, c.loadGateway())
	}
	var err error
	c.credentials, err = settings.ReadCredentials(c.SecretMountPath, c.BasicAuth)
	c.gateway.Credentials = c.credentials
	return c, errors.Join(append(mistakes, err)...)
}

func (c *config) loadProvider() error {
	p := &c.provider
	err := settings.Load(p)
	if c.hasGateway() {
		settings.Defaults(&p.server)
		p.Port = loopbackPort
	} else {
		err = errors.Join(err, settings.Load(&p.server))
	}
	return errors.Join(err, p.validate())
}

func (c *config) loadGateway() error {
	err := errors.Join(settings.Load(&c.gateway), settings.Load(&c.queue))
	if c.hasProvider() {
		c.gateway.ProviderURL = "http://127.0.0.1:" + strconv.Itoa(loopbackPort)
	}
	err = errors.Join(err, c.gateway.Validate())
	c.gateway.FunctionNamespace = c.FunctionNamespace
	c.gateway = c.gateway.WithDefaults()
	for name, port := range map[string]int{"port": c.gateway.Port, "metrics_port": c.gateway.MetricsPort} {
		if c.hasProvider() && port == loopbackPort {
			err = errors.Join(err, settings.Mistake(name, port, "another port than that of the provider in role all"))
		}
	}
	if !c.hasQueue() {
		return err
	}
	// What is being made when the process is to end has as long as the gateway gives any request.
	c.queue.StopTimeout = c.gateway.ShutdownDelay + c.gateway.ShutdownTimeout
	password, secretErr := settings.ReadSecret(c.SecretMountPath, "redis-queue")
	if errors.Is(secretErr, fs.ErrNotExist) {
		secretErr = nil // a Redis of one's own may ask for none
	}
	c.queue.Password = password
	return errors.Join(err, c.queue.Validate(), secretErr)
}

func (p providerConfig) validate() error {
	errs := []error{settings.Check(p.server), settings.Check(p)}
	if p.UpstreamTimeout > p.WriteTimeout {
		errs = append(errs, settings.Mistake("upstream_timeout", p.UpstreamTimeout, "at most write_timeout, %s, so that an error can still be answered", p.WriteTimeout))
	}
	return errors.Join(errs...)
}

// cluster is what the settings say of the Swarm.
func (c config) cluster() swarm.Config {
	return swarm.Config{Namespace: c.FunctionNamespace, Network: c.provider.FunctionsNetwork, User: c.provider.FunctionUser,
		AllowedNetworks: c.provider.AllowedNetworks, AllowedVolumes: c.provider.AllowedVolumes, FunctionLabel: c.provider.FunctionLabel}
}

// effective lists the settings of the process's role.
func (c config) effective() settings.Settings {
	specs := []any{c.common}
	if c.hasGateway() {
		specs = append(specs, c.gateway, c.queue)
	}
	if c.hasProvider() {
		// In role all the names of server are the gateway's.
		specs = append(specs, c.provider.server, c.provider)
	}
	return settings.List(specs...)
}

// address is all interfaces for the provider alone, which sits on an internal network, and loopback beside a gateway.
func (c config) address() string {
	host := ""
	if c.hasGateway() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(c.provider.Port))
}

// check joins what is wrong outside of the settings: what they name cannot be had. It is for a process that does not run yet.
func (c config) check() error {
	var errs []error
	if c.hasProvider() {
		_, err := swarm.Connect("")
		host, _, _ := net.SplitHostPort(c.address())
		errs = append(errs, err, settings.CheckFree("port", host, c.provider.Port), checkRegistryConfig(c.provider.RegistryConfig))
	}
	if c.hasGateway() {
		errs = append(errs, c.gateway.Check())
	}
	return errors.Join(errs...)
}
