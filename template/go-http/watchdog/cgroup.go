package watchdog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
)

// cgroup is where a container sees the control group it runs in. The kernel counts there what all of its processes
// use, as an engine reports it. Figures of this process alone would leave out what a handler starts.
type cgroup struct {
	// mount is where the hierarchy is mounted, self the file that says where in it this process is.
	mount, self string
}

var containerGroup = cgroup{mount: "/sys/fs/cgroup", self: "/proc/self/cgroup"}

// usage is the processor time used so far, in seconds, and the memory that dropping caches would not free, in bytes.
// Ok is false where either cannot be read.
func (c cgroup) usage() (cpuSeconds, memory float64, ok bool) {
	if dir, found := c.unified(); found {
		microseconds, hasTime := counter(filepath.Join(dir, "cpu.stat"), "usage_usec")
		used, hasMemory := counter(filepath.Join(dir, "memory.current"), "")
		inactive, hasCaches := counter(filepath.Join(dir, "memory.stat"), "inactive_file")
		return microseconds / 1e6, max(used-inactive, 0), hasTime && hasMemory && hasCaches
	}
	nanoseconds, hasTime := counter(filepath.Join(c.mount, "cpuacct", "cpuacct.usage"), "")
	used, hasMemory := counter(filepath.Join(c.mount, "memory", "memory.usage_in_bytes"), "")
	inactive, hasCaches := counter(filepath.Join(c.mount, "memory", "memory.stat"), "total_inactive_file")
	return nanoseconds / 1e9, max(used-inactive, 0), hasTime && hasMemory && hasCaches
}

// unified is the group's folder in version 2 of control groups. A container without a cgroup namespace may see the
// machine's whole tree. The kernel then says which place in it is its own.
func (c cgroup) unified() (dir string, found bool) {
	if _, err := os.Stat(filepath.Join(c.mount, "cgroup.controllers")); err != nil {
		return "", false
	}
	text, err := readSmall(c.self)
	if err != nil {
		return "", false
	}
	for line := range bytes.Lines(text) {
		if place, isUnified := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); isUnified {
			dir = filepath.Join(c.mount, filepath.Clean("/"+string(place)))
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "memory.current")); dir == "" || err != nil {
		return c.mount, true // what is mounted is the group itself
	}
	return dir, true
}

// counter reads a number from a file: the only one in it, or the one after a name.
func counter(file, name string) (value float64, found bool) {
	text, err := readSmall(file)
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if name == "" {
			fields = append([][]byte{nil}, fields...)
		}
		if len(fields) == 2 && string(fields[0]) == name {
			n, err := strconv.ParseUint(string(fields[1]), 10, 64)
			return float64(n), err == nil
		}
	}
	return 0, false
}

// readSmall reads a file of the kernel's, of which none that is read here has 64 KiB.
func readSmall(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	return io.ReadAll(io.LimitReader(file, 64<<10))
}

// write prints the two figures under the names that cAdvisor gives them, or nothing.
func (c cgroup) write(w io.Writer) {
	cpu, memory, ok := c.usage()
	if !ok {
		return
	}
	fmt.Fprintf(w, "# HELP container_cpu_usage_seconds_total Processor time used by all processes of the container.\n# TYPE container_cpu_usage_seconds_total counter\n")
	fmt.Fprintf(w, "container_cpu_usage_seconds_total %g\n", cpu)
	fmt.Fprintf(w, "# HELP container_memory_working_set_bytes Memory of the container without caches that can be dropped.\n# TYPE container_memory_working_set_bytes gauge\n")
	fmt.Fprintf(w, "container_memory_working_set_bytes %.0f\n", memory)
}

// LimitMemory tells the garbage collector of the container's memory limit, so that near it memory is freed sooner
// instead of the kernel ending the process. Nine tenths leave room for what the collector does not manage.
// A GOMEMLIMIT of the user's stays as it is.
func LimitMemory(getenv func(string) string) {
	if limit, ok := containerGroup.memoryLimit(); ok && getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limit / 10 * 9))
	}
}

// memoryLimit is the most memory the group may use, in bytes; ok is false where there is no limit.
func (c cgroup) memoryLimit() (bytes float64, ok bool) {
	if dir, found := c.unified(); found {
		return counter(filepath.Join(dir, "memory.max"), "") // the word max is no number
	}
	const unlimited = 1 << 60 // version 1 writes the greatest number of pages instead of a word
	if bytes, ok = counter(filepath.Join(c.mount, "memory", "memory.limit_in_bytes"), ""); bytes > unlimited {
		return 0, false
	}
	return bytes, ok
}
