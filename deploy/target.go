package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"waggle/deploy/docker"
	"waggle/deploy/inventory"
	"waggle/deploy/lab/cluster"
	"waggle/deploy/machines"
	"waggle/deploy/up"
)

// withSystem calls a function with the system on the target that the settings name. That is the machines of an
// inventory, a cluster of node containers, or this machine.
func withSystem(ctx context.Context, s settings, do func(*up.System) error) error {
	root, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("finding the repository: %w", err)
	}
	config := up.Config{
		Root:               root,
		Registry:           s.Registry,
		Version:            s.Version,
		Port:               s.Port,
		TLSCert:            s.TLSCert,
		TLSKey:             s.TLSKey,
		TLSPort:            s.TLSPort,
		Workers:            s.Workers,
		RedisMaxMemory:     s.RedisMaxMemory,
		QueueMaxMemory:     s.QueueMaxMemory,
		MaxUpstreamTimeout: s.MaxUpstreamTimeout,
		RegistryConfig:     s.RegistryConfig,
		Out:                os.Stdout,
	}
	if config.StateDir, err = stateDir(s); err != nil {
		return err
	}
	done := func() error { return nil }
	switch {
	case s.Inventory != "":
		done, err = onMachines(ctx, s, &config)
	case s.Cluster != "":
		done, err = onCluster(ctx, s, &config)
	default:
		config.Target = up.Target{Gateways: s.Gateways, Preloaded: s.Preloaded}
		if len(s.Gateways) == 0 {
			config.Target.Gateways = []string{fmt.Sprintf("http://127.0.0.1:%d", s.Port)}
		}
		if config.Postgres, err = inventory.Database(s.PostgresHosts, s.PostgresCA, s.Archive); err != nil {
			err = fmt.Errorf("POSTGRES_HOSTS, POSTGRES_CA and ARCHIVE: %w", err)
		}
	}
	if err != nil {
		return err
	}
	system, err := up.New(config)
	if err != nil {
		return errors.Join(err, done())
	}
	return errors.Join(do(system), done())
}

// stateDir is where the passwords and keys of the target are kept.
func stateDir(s settings) (string, error) {
	switch {
	case s.Inventory != "" && s.Cluster != "":
		return "", errors.New("INVENTORY and CLUSTER are both given: must be one of them")
	case s.Inventory != "":
		described, err := inventory.Read(s.Inventory)
		if err != nil {
			return "", err
		}
		return filepath.Join(s.StateDir, "machines-"+described.Name), nil
	case s.Cluster != "":
		return s.clusterDir(), nil
	}
	return filepath.Join(s.StateDir, "local"), nil
}

// onMachines takes the settings from the inventory; done ends the connections to its machines.
func onMachines(ctx context.Context, s settings, config *up.Config) (done func() error, err error) {
	described, done, err := openMachines(ctx, s.Inventory, config)
	if err != nil {
		return nil, err
	}
	config.Port, config.TLSPort, config.Workers = described.Edge.Port, described.Edge.TLSPort, described.Workers
	config.TLSCert, config.TLSKey = described.Edge.TLS.Cert, described.Edge.TLS.Key
	config.RedisMaxMemory, config.Postgres = described.Capture.MaxMemory, described.Postgres
	return done, nil
}

// onCluster works on node containers, whose inventory `make cluster` wrote. Their gateways have a port each on this
// machine's loopback; the settings are the operator's.
func onCluster(ctx context.Context, s settings, config *up.Config) (done func() error, err error) {
	nodes, err := cluster.Open(ctx, docker.Engine{}, s.Cluster)
	if err != nil {
		return nil, err
	}
	if _, done, err = openMachines(ctx, filepath.Join(s.clusterDir(), up.InventoryFile), config); err != nil {
		return nil, err
	}
	config.Target.Gateways = up.OnCluster(nodes).Gateways
	config.Port = up.DefaultPort // inside the nodes
	if config.Postgres, err = inventory.Database(nil, "", s.Archive); err != nil {
		return nil, errors.Join(fmt.Errorf("ARCHIVE: %w", err), done())
	}
	return done, nil
}

// openMachines makes the machines of an inventory the target.
func openMachines(ctx context.Context, file string, config *up.Config) (*inventory.Inventory, func() error, error) {
	described, err := inventory.Read(file)
	if err != nil {
		return nil, nil, err
	}
	opened, err := machines.Open(ctx, machines.Config{Inventory: described, Root: config.Root, Note: up.NewProgress(os.Stdout).Note})
	if err != nil {
		return nil, nil, err
	}
	if config.Target, err = up.OnMachines(opened); err != nil {
		return nil, nil, errors.Join(err, opened.Close())
	}
	config.NetworkMTU, config.NetworkEncrypted = described.Network.MTU, described.Network.Encrypted
	return described, opened.Close, nil
}
