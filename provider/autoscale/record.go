package autoscale

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// maxRecord bounds a record, so that one that is forgotten fills no disk; some hours of ten busy functions.
const maxRecord = 256 << 20

// recorder writes inputs and answers, a line of JSON each. It is guarded by Scaler.mu.
type recorder struct {
	out    io.Writer
	size   int
	ended  bool
	logger *slog.Logger
}

func (r *recorder) write(function string, in Input, d Decision) {
	if r.ended {
		return
	}
	in.Function, in.Decision = function, d
	line, err := json.Marshal(in)
	if err == nil && r.size+len(line) > maxRecord {
		err = fmt.Errorf("it is longer than %d bytes", maxRecord)
	}
	if err == nil {
		_, err = r.out.Write(append(line, '\n'))
	}
	r.size += len(line) + 1
	if err != nil {
		r.ended = true
		r.logger.Warn("the record of the autoscaler ends here", "error", err)
	}
}

// ErrDiffers means that a record's decisions are not those of this program.
var ErrDiffers = errors.New("decisions differ from the record")

// Replay takes the inputs of a record and writes each decision that changes something, with what was answered then where that
// is another. It gives ErrDiffers if any is.
func Replay(record io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(record)
	lines.Buffer(nil, 1<<20)
	trackers := make(map[string]*Tracker)
	number, decisions, differ := 0, 0, 0
	for lines.Scan() {
		number++
		var in Input
		if err := json.Unmarshal(lines.Bytes(), &in); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		t := trackers[in.Function]
		if t == nil {
			if in.Kind != Begin {
				return fmt.Errorf("line %d: function %q does not begin: a record has to be whole", number, in.Function)
			}
			t = &Tracker{}
			trackers[in.Function] = t
		}
		before := t.Replicas().Desired
		d := t.Take(in)
		if in.Kind == AskSecond || in.Kind == AskUrgent || in.Kind == AskWake {
			decisions++
		}
		switch {
		case d != in.Decision:
			differ++
			fmt.Fprintf(out, "%s %s %d → %d %s, load %.1f; recorded: %d %s\n", in.At.Format("15:04:05.000"), in.Function, before, d.Desired, d.Reason,
				t.Demand(), in.Decision.Desired, in.Decision.Reason)
		case d.Desired != before && in.Kind != SetByOthers:
			fmt.Fprintf(out, "%s %s %d → %d %s, load %.1f\n", in.At.Format("15:04:05.000"), in.Function, before, d.Desired, d.Reason, t.Demand())
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the record: %w", err)
	}
	fmt.Fprintf(out, "%d functions, %d decisions, %d of which differ from the record\n", len(trackers), decisions, differ)
	if differ > 0 {
		return ErrDiffers
	}
	return nil
}
