package main

import (
	"testing"

	"waggle/deploy/up"
)

// TestChainConfig: the chain is measured seldom, so that a setting which it lacks would be noticed late.
func TestChainConfig(t *testing.T) {
	t.Parallel()
	if _, err := up.New(chainConfig(up.Target{Gateways: []string{"http://127.0.0.1:1"}}, "../../..", t.TempDir())); err != nil {
		t.Error(err)
	}
}
