package swarm

import (
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
	// minMemory is the least with which an engine starts a container. Swarm itself would take less and then retry for ever.
	minMemory = 6 << 20
	// maxMemory is a bound against typing errors: 1 PiB.
	maxMemory = 1 << 50
)

// number is a decimal with an optional exponent, bounded so that no input costs more than its length.
var number = regexp.MustCompile(`^([0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE]\+?[0-9]{1,2})?)([a-zA-Z]{0,2})$`)

// memoryUnits holds the suffixes of Kubernetes (k, M, G, T, P are decimal; Ki, Mi, … binary) and those only Docker has
// (m, g, …: all binary). Where both know one, Kubernetes' meaning wins, because OpenFaaS files are written for it.
var memoryUnits = map[string]int64{
	"": 1, "b": 1, "B": 1,
	"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
	"K": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50,
	"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40,
	"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40,
}

// parseMemory reads a quantity of memory into bytes; field names it in the error.
func parseMemory(field, text string) (int64, error) {
	const legal = "a number with one of Ki, Mi, Gi, k, M, G or, as Docker has them, m, g; at least 6Mi, at most 1Pi"
	value, suffix, ok := parseNumber(text)
	unit, known := memoryUnits[suffix]
	if !ok || !known {
		return 0, failf(ErrInvalid, "%s: %q; want %s", field, shorten(text), legal)
	}
	value.Mul(value, new(big.Rat).SetInt64(unit))
	if value.Cmp(big.NewRat(minMemory, 1)) < 0 || value.Cmp(big.NewRat(maxMemory, 1)) > 0 {
		return 0, failf(ErrInvalid, "%s: %q is outside what can run; want %s", field, shorten(text), legal)
	}
	return floor(value), nil
}

// parseCPU reads a quantity of processors into billionths; field names it in the error.
func parseCPU(field, text string) (int64, error) {
	const legal = "processors such as 0.5 or 2, or thousandths such as 100m; from 1m to 10000"
	value, suffix, ok := parseNumber(text)
	if !ok || (suffix != "" && suffix != "m") {
		return 0, failf(ErrInvalid, "%s: %q; want %s", field, shorten(text), legal)
	}
	unit := int64(1_000_000_000)
	if suffix == "m" {
		unit = 1_000_000
	}
	value.Mul(value, new(big.Rat).SetInt64(unit))
	if value.Cmp(big.NewRat(minNanoCPUs, 1)) < 0 || value.Cmp(big.NewRat(maxNanoCPUs, 1)) > 0 {
		return 0, failf(ErrInvalid, "%s: %q is outside what can run; want %s", field, shorten(text), legal)
	}
	return floor(value), nil
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

// parseResources reads limits or requests; nil, and each part that is empty, give 0.
func parseResources(field string, r *types.FunctionResources) (nanoCPUs, memory int64, err error) {
	if r == nil {
		return 0, 0, nil
	}
	for name, value := range map[string]string{"nvidia.com/gpu": r.NvidiaGPU, "amd.com/gpu": r.AmdGPU, "intel.com/gpu": r.IntelGPU} {
		if value != "" && value != "0" {
			return 0, 0, failf(ErrInvalid, "%s.%s: %q; GPUs cannot be asked for here, leave it out", field, name, shorten(value))
		}
	}
	if r.CPU != "" {
		if nanoCPUs, err = parseCPU(field+".cpu", r.CPU); err != nil {
			return 0, 0, err
		}
	}
	if r.Memory != "" {
		if memory, err = parseMemory(field+".memory", r.Memory); err != nil {
			return 0, 0, err
		}
	}
	return nanoCPUs, memory, nil
}
