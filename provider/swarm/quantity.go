package swarm

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/openfaas/faas-provider/types"
)

const (
	// minNanoCPUs is the least share of a processor that Swarm accepts: 0.001.
	minNanoCPUs = 1_000_000
	// maxNanoCPUs is a bound against typing errors: 10,000 processors.
	maxNanoCPUs = 10_000 * 1_000_000_000
	// minMemory is the least with which an engine starts a container. Swarm itself takes less, and then retries for ever.
	minMemory = 6 << 20
	// maxMemory is a bound against typing errors: 1 PiB.
	maxMemory = 1 << 50
)

// number is a decimal with an optional exponent, bounded so that no input costs more than its length.
var number = regexp.MustCompile(`^([0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE]\+?[0-9]{1,2})?)([a-zA-Z]{0,2})$`)

// memoryUnits holds the suffixes of Kubernetes (k, M, G, T, P decimal; Ki, Mi, … binary) and Docker's own (m,
// g, … binary). Where both know one, Kubernetes' meaning wins, because OpenFaaS files are written for it.
var memoryUnits = map[string]int64{
	"": 1, "b": 1, "B": 1,
	"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
	"K": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50,
	"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40,
	"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40,
}

// parseMemory reads a quantity of memory into bytes; legal says what is, if it is none. What no engine could start a
// container with is raised to what one can.
func parseMemory(text string) (bytes int64, raised bool, legal string) {
	legal = "a number above 0 with one of Ki, Mi, Gi, k, M, G or, as Docker has them, m, g; at most 1Pi"
	value, suffix, ok := parseNumber(text)
	unit, known := memoryUnits[suffix]
	if !ok || !known {
		return 0, false, legal
	}
	value.Mul(value, new(big.Rat).SetInt64(unit))
	if value.Sign() == 0 || value.Cmp(big.NewRat(maxMemory, 1)) > 0 {
		return 0, false, legal
	}
	if value.Cmp(big.NewRat(minMemory, 1)) < 0 {
		return minMemory, true, ""
	}
	return floor(value), false, ""
}

// parseCPU reads a quantity of processors into billionths; legal says what is, if it is none.
func parseCPU(text string) (nanoCPUs int64, legal string) {
	legal = "processors such as 0.5 or 2, or thousandths such as 100m; from 1m to 10000"
	value, suffix, ok := parseNumber(text)
	if !ok || (suffix != "" && suffix != "m") {
		return 0, legal
	}
	unit := int64(1_000_000_000)
	if suffix == "m" {
		unit = 1_000_000
	}
	value.Mul(value, new(big.Rat).SetInt64(unit))
	if value.Cmp(big.NewRat(minNanoCPUs, 1)) < 0 || value.Cmp(big.NewRat(maxNanoCPUs, 1)) > 0 {
		return 0, legal
	}
	return floor(value), ""
}

func parseNumber(text string) (value *big.Rat, suffix string, ok bool) {
	parts := number.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return nil, "", false
	}
	value, ok = new(big.Rat).SetString(parts[1])
	return value, parts[2], ok
}

func floor(r *big.Rat) int64 {
	return new(big.Int).Quo(r.Num(), r.Denom()).Int64()
}

// quantities are one part of a deployment's resources; 0 is not given.
type quantities struct{ nanoCPUs, memory int64 }

// parseQuantities reads limits or requests, whose name field is. Nothing, and each part that is empty, gives 0.
func parseQuantities(field string, r *types.FunctionResources, wrong *mistakes) (q quantities, warnings []string) {
	if r == nil {
		return q, nil
	}
	g := given{kind: field + ".", wrong: wrong}
	for name, value := range map[string]string{"nvidia.com/gpu": r.NvidiaGPU, "amd.com/gpu": r.AmdGPU, "intel.com/gpu": r.IntelGPU} {
		if value != "" && value != "0" {
			g.illegal(name, value, "left out: no GPU can be asked for here")
		}
	}
	var legal string
	if r.CPU != "" {
		if q.nanoCPUs, legal = parseCPU(r.CPU); legal != "" {
			g.illegal("cpu", r.CPU, "%s", legal)
		}
	}
	if r.Memory != "" {
		var raised bool
		if q.memory, raised, legal = parseMemory(r.Memory); legal != "" {
			g.illegal("memory", r.Memory, "%s", legal)
		}
		if raised {
			warnings = append(warnings, fmt.Sprintf("%s.memory %q is raised to 6Mi, the least with which an engine starts a container", field, r.Memory))
		}
	}
	return q, warnings
}
