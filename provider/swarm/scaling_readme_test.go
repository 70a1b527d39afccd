package swarm

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// scaleTable is the labels as the README shows them, made of what the parser goes by.
func scaleTable() string {
	d := defaultScale
	rows := [][4]string{
		{labelScaleMin, fmt.Sprint(d.Min), fmt.Sprintf("whole, 0 to %d and at most `max`; 0 counts as 1", maxReplicas), "never fewer replicas while awake"},
		{labelScaleMax, fmt.Sprintf("%d, or `min` if that is more", d.Max), fmt.Sprintf("whole, 1 to %d", maxReplicas), "never more by the autoscaler's decision; equal to `min`: only operators change the number"},
		{labelScaleType, string(d.Type), "rps, capacity, cpu, queue", "what the load is counted in"},
		{labelScaleTarget, fmt.Sprint(d.Target), fmt.Sprintf("above 0, to %d", maxTarget), "load that one replica is meant for: requests per second; requests at once; thousandths of a processor; due calls"},
		{labelScaleProportion, fmt.Sprint(d.Proportion), "above 0, to 1", "part of the target that is aimed at"},
		{labelScaleDownWindow, d.DownWindow.String(), fmt.Sprintf("0s to %s", maxDownWindow), "how long a need keeps replicas from being removed"},
		{labelScaleZero, fmt.Sprint(d.Zero), "true, false", "whether it may sleep"},
		{labelScaleZeroDuration, d.ZeroDuration.String(), fmt.Sprintf("%s to %s", minZeroDuration, maxZeroDuration), "how long it is idle before it does"},
		{labelScaleFactor, fmt.Sprint(d.Factor), "whole, 0 to 100", "step of an alert, in per cent of `max`; 0: alerts change nothing"},
	}
	var table strings.Builder
	table.WriteString("| label | default | legal | meaning |\n|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(r[0], scalePrefix), r[1], r[2], r[3])
	}
	return table.String()
}

func TestTheReadmeHasEveryScaleLabel(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	table := scaleTable()
	if !strings.Contains(string(readme), table) {
		t.Errorf("provider/README.md must have this table:\n%s", table)
	}
	for _, label := range scaleLabels {
		if !strings.Contains(table, "`"+strings.TrimPrefix(label, scalePrefix)+"`") {
			t.Errorf("the table lacks %s", label)
		}
	}
}
