package liveness

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processesAtWork reports whether a thread of any process but this one is at work.
func processesAtWork() bool {
	return atWork("/proc/[0-9]*/task/[0-9]*/stat", "/proc/"+strconv.Itoa(os.Getpid())+"/")
}

// atWork reports whether one of the threads runs or waits for a processor (state R), or waits for a device (D). A thread
// whose control group has used up its share of the processor is in state R. See proc(5).
func atWork(stats, except string) bool {
	files, err := filepath.Glob(stats)
	if err != nil {
		return false
	}
	for _, file := range files {
		if strings.HasPrefix(file, except) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended since
		}
		if state := threadState(text); state == 'R' || state == 'D' {
			return true
		}
	}
	return false
}

// threadState is the field after the name, which stands in parentheses and may hold some itself; 0 if there is none.
func threadState(stat []byte) byte {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 || i+2 >= len(stat) {
		return 0
	}
	return stat[i+2]
}

// markerFile is the past as a file. The folder it is in is memory of the container's own, writable even where the root
// file system is not, and empty after each start. Where it cannot be written, each check is the first one: that costs
// more checks and is right.
type markerFile string

func (m markerFile) load() past {
	text, err := os.ReadFile(string(m))
	if err != nil {
		return silent
	}
	return past(text)
}

func (m markerFile) store(p past) {
	_ = os.WriteFile(string(m), []byte(p), 0o600)
}
