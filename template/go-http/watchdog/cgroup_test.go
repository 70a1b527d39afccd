package watchdog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCgroupUsage(t *testing.T) {
	t.Parallel()
	const v2 = "user_usec 1\nusage_usec 2500000\n"
	tests := map[string]struct {
		files       map[string]string // below the mount, but for self
		cpu, memory float64
		missing     bool
		limit       float64
	}{
		"version 2, a namespace of its own": {files: map[string]string{"self": "0::/\n", "cgroup.controllers": "cpu memory\n",
			"cpu.stat": v2, "memory.current": "3000\n", "memory.max": "5000\n", "memory.stat": "anon 1\ninactive_file 1000\n"}, cpu: 2.5, memory: 2000, limit: 5000},
		"version 2, the machine's tree": {files: map[string]string{"self": "0::/docker/a\n", "cgroup.controllers": "cpu memory\n", "cpu.stat": "usage_usec 9\n",
			"docker/a/cpu.stat": v2, "docker/a/memory.current": "3000\n", "docker/a/memory.stat": "inactive_file 1000\n"}, cpu: 2.5, memory: 2000},
		"version 2, mounted at the group, named from the root": {files: map[string]string{"self": "0::/docker/a\n", "cgroup.controllers": "cpu memory\n",
			"cpu.stat": v2, "memory.current": "3000\n", "memory.max": "max\n", "memory.stat": "inactive_file 1000\n"}, cpu: 2.5, memory: 2000},
		"version 1, without a limit": {files: map[string]string{"self": "", "cpuacct/cpuacct.usage": "2500000000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n",
			"memory/memory.usage_in_bytes": "3000\n", "memory/memory.stat": "total_inactive_file 1000\n"}, cpu: 2.5, memory: 2000},
		"version 1": {files: map[string]string{"self": "4:memory:/docker/a\n", "cpuacct/cpuacct.usage": "2500000000\n",
			"memory/memory.limit_in_bytes": "5000\n", "memory/memory.usage_in_bytes": "3000\n", "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n"}, cpu: 2.5, memory: 2000, limit: 5000},
		"more cache than use": {files: map[string]string{"self": "0::/\n", "cgroup.controllers": "",
			"cpu.stat": v2, "memory.current": "3000\n", "memory.stat": "inactive_file 4000\n"}, cpu: 2.5},
		"version 2 without memory": {files: map[string]string{"self": "0::/\n", "cgroup.controllers": "cpu\n", "cpu.stat": v2}, missing: true},
		"no control groups":        {files: map[string]string{"self": ""}, missing: true},
		"nonsense": {files: map[string]string{"self": "0::/../../x\n", "cgroup.controllers": "",
			"cpu.stat": "usage_usec -1\n", "memory.current": "max\n", "memory.stat": "inactive_file"}, missing: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range test.files {
				file = filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			group := cgroup{mount: dir, self: filepath.Join(dir, "self")}
			cpu, memory, ok := group.usage()
			if ok == test.missing || ok && (cpu != test.cpu || memory != test.memory) {
				t.Errorf("got %g s and %g bytes, %t; want %g and %g", cpu, memory, ok, test.cpu, test.memory)
			}
			if limit, limited := group.memoryLimit(); limit != test.limit || limited != (test.limit > 0) {
				t.Errorf("the limit is %g, %t; want %g", limit, limited, test.limit)
			}
			var out strings.Builder
			group.write(&out)
			if got := strings.Contains(out.String(), "\ncontainer_cpu_usage_seconds_total 2.5\n"); got == test.missing {
				t.Errorf("printed %q", out.String())
			}
		})
	}
}
