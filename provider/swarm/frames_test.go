package swarm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// frame is written out here, apart from the code it tests.
func frame(stream byte, payload string) []byte {
	head := []byte{stream, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(head[4:], uint32(len(payload)))
	return append(head, payload...)
}

const testStamp = "2026-01-02T03:04:05.000000006Z com.docker.swarm.node.id=n,com.docker.swarm.task.id="

// TestFramesOfEveryLength takes lines of all lengths up to 3,000 and some beyond. A length byte of 0x0A in the
// header (266, 522, 2560 to 2815) must not be taken for a newline.
func TestFramesOfEveryLength(t *testing.T) {
	t.Parallel()
	lengths := []int{16383, 16384, 16385, 40_000, 65_536, 70_000}
	for n := range 3000 {
		lengths = append(lengths, n)
	}
	var stream bytes.Buffer
	for _, n := range lengths {
		line := strings.Repeat("x", n) + "\n"
		for len(line) > 0 {
			piece := line[:min(len(line), 16<<10)]
			line = line[len(piece):]
			stream.Write(frame(1, testStamp+"t1 "+piece))
		}
	}
	in := newFrames(&stream)
	for _, n := range lengths {
		line, err := in.next()
		if err != nil || len(line.text) != n || line.task != "t1" {
			t.Fatalf("line of %d: got %d of task %q, %v", n, len(line.text), line.task, err)
		}
	}
	if _, err := in.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	at, huge := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), strings.Repeat("h", maxLine)
	for name, test := range map[string]struct {
		stream []byte
		want   []logLine
		fails  bool
	}{
		"empty":              {},
		"one line":           {stream: frame(1, testStamp+"a hello\n"), want: []logLine{{task: "a", at: at, text: "hello", first: true}}},
		"empty line":         {stream: frame(1, testStamp+"a \n"), want: []logLine{{task: "a", at: at, text: "", first: true}}},
		"spaces stay":        {stream: frame(1, testStamp+"a  x  \n"), want: []logLine{{task: "a", at: at, text: " x  ", first: true}}},
		"no newline at end":  {stream: frame(2, testStamp+"a tail"), want: []logLine{{task: "a", at: at, text: "tail", first: true, open: true}}},
		"pieces interleaved": {stream: join(frame(1, testStamp+"a 1"), frame(1, testStamp+"b x\n"), frame(2, testStamp+"a e\n"), frame(1, testStamp+"a 2\n")), want: []logLine{{task: "b", at: at, text: "x"}, {task: "a", at: at, text: "e"}, {task: "a", at: at, text: "12", first: true}}},
		"longer than a message": {stream: join(frame(1, testStamp+"b x\n"), frame(1, testStamp+"a "+huge), frame(1, testStamp+"a 2\n"), frame(1, testStamp+"a 3\n")),
			want: []logLine{{task: "b", at: at, text: "x", first: true}, {task: "a", at: at, text: huge}, {task: "a", at: at, text: "2", further: true}, {task: "a", at: at, text: "3"}}},
		"as long as a message": {stream: join(frame(1, testStamp+"a "+huge), frame(1, testStamp+"a \n")), want: []logLine{{task: "a", at: at, text: huge, first: true}}},
		"header cut":           {stream: []byte{1, 0, 0}, fails: true},
		"frame cut":            {stream: frame(1, testStamp+"a hello\n")[:30], fails: true},
		"unknown stream":       {stream: frame(7, testStamp+"a hello\n"), fails: true},
		"length beyond bound":  {stream: []byte{1, 0, 0, 0, 255, 255, 255, 255}, fails: true},
		"no time":              {stream: frame(1, "hello world\n"), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := newFrames(bytes.NewReader(test.stream))
			for _, want := range test.want {
				got, err := in.next()
				if err != nil || got != want {
					t.Fatalf("got %+v, %v; want %+v", got, err, want)
				}
			}
			_, err := in.next()
			if test.fails == errors.Is(err, io.EOF) || err == nil {
				t.Errorf("then %v", err)
			}
		})
	}
}

func TestFramesPassOnWhatTheEngineSays(t *testing.T) {
	t.Parallel()
	in := newFrames(bytes.NewReader(join(frame(3, "node x is not available\n"), frame(1, testStamp+"a after\n"))))
	var notice *errLog
	if _, err := in.next(); !errors.As(err, &notice) || notice.text != "node x is not available" {
		t.Fatalf("got %v", err)
	}
	if line, err := in.next(); err != nil || line.text != "after" {
		t.Errorf("then %+v, %v", line, err)
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func FuzzFrames(f *testing.F) {
	f.Add(frame(1, testStamp+"a hello\n"))
	f.Add(join(frame(1, testStamp+"a part"), frame(3, "error"), frame(2, testStamp+"b x\n")))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := newFrames(bytes.NewReader(stream))
		size := 0
		for {
			line, err := in.next()
			var notice *errLog
			if errors.As(err, &notice) {
				continue
			}
			if err != nil {
				break
			}
			size += len(line.text)
		}
		if size > len(stream) {
			t.Errorf("%d bytes of text out of a stream of %d", size, len(stream))
		}
	})
}
