package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"waggle/provider/autoscale"
	"waggle/provider/feed"
	"waggle/provider/swarm"
)

// newScaler makes the autoscaler that the settings ask for.
func newScaler(c config, cluster *swarm.Cluster, usages *feed.UsageBook, registry *prometheus.Registry, logger *slog.Logger) (*autoscale.Scaler, error) {
	var record io.Writer
	if name := c.provider.AutoscaleRecord; name != "" {
		file, err := os.Create(name) // open until the process ends
		if err != nil {
			return nil, fmt.Errorf("recording the autoscaler (autoscale_record): %w", err)
		}
		record = file
	}
	return autoscale.New(autoscale.Config{
		Cluster: cluster, Usages: usages, Namespace: c.FunctionNamespace, Off: !c.provider.Autoscale, Record: record,
		Postponed:  func(err error) bool { return errors.Is(err, swarm.ErrMoved) || errors.Is(err, swarm.ErrUpdating) },
		Registerer: registry, Logger: logger,
	})
}

// replay repeats the decisions of an autoscaler's record, and says where they differ.
func replay(name string, out io.Writer) error {
	record, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("opening the record: %w", err)
	}
	defer func() { _ = record.Close() }()
	return autoscale.Replay(record, out)
}
