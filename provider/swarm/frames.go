package swarm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

const (
	// frameHeader is the length of the header before each frame of a log. Byte 0 is the stream; bytes 4 to 7
	// are the length of the frame, big-endian. (Engine API, "Stream format".)
	frameHeader = 8
	// streamSystemError marks a piece that is a message of the engine itself.
	streamSystemError = 3
	// pieceSize is where engines cut lines.
	pieceSize = 16 << 10
	// maxFrame bounds one piece; engines put less than 1 KiB of details before it.
	maxFrame = 1 << 20
	// maxLine bounds a line that is put together again; what is longer comes in several messages.
	maxLine = 256 << 10
)

// logLine is one line that a task wrote.
type logLine struct {
	task string
	at   time.Time
	text string
	// notice marks a line that no replica wrote: it says what is missing.
	notice bool
	// further marks what follows the first maxLine bytes of a line.
	further bool
	// first marks the line to which the first piece belongs that was read: its beginning may come before that.
	first bool
	// open marks a line that had not ended when the stream did.
	open bool
}

// errLog is a message that the engine wrote into the stream, such as that a node does not answer.
type errLog struct{ text string }

func (e *errLog) Error() string { return e.text }

// frames reads Docker's log stream, requested with time stamps and details. Engines split a long line into
// several frames, of which only the last ends in a newline. frames joins those of one task and stream again.
type frames struct {
	in      *bufio.Reader
	pending map[partial]*logLine
	// pieces counts those that were read.
	pieces int
}

type partial struct {
	task   string
	stream byte
}

func newFrames(in io.Reader) *frames {
	return &frames{in: bufio.NewReaderSize(in, 64<<10), pending: make(map[partial]*logLine)}
}

// next gives the next whole line. At the end of the stream it first gives what was never ended by a newline, then io.EOF.
func (f *frames) next() (logLine, error) {
	for {
		stream, payload, err := f.read()
		if err != nil {
			for key, line := range f.pending {
				delete(f.pending, key)
				if line.open = true; line.text != "" || !line.further {
					return *line, nil
				}
			}
			return logLine{}, err
		}
		if stream == streamSystemError {
			return logLine{}, &errLog{text: strings.TrimSpace(string(payload))}
		}
		line, ended, err := parsePiece(payload)
		if err != nil {
			return logLine{}, err
		}
		line.first = f.pieces == 0
		f.pieces++
		key := partial{line.task, stream}
		if before, found := f.pending[key]; found {
			before.text += line.text
			line = *before
		}
		if !ended && len(line.text) < maxLine {
			f.pending[key] = &line
			continue
		}
		delete(f.pending, key)
		if !ended {
			f.pending[key] = &logLine{task: line.task, at: line.at, further: true, first: line.first}
		}
		if line.text == "" && line.further {
			continue
		}
		return line, nil
	}
}

// read takes one frame off the stream.
func (f *frames) read() (stream byte, payload []byte, err error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(f.in, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("reading logs: the stream ends inside a header: %w", err)
		}
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(header[4:])
	if header[0] > streamSystemError || size > maxFrame {
		return 0, nil, fmt.Errorf("reading logs: a frame of stream %d with %d bytes; want a stream of 0 to 3 and at most %d bytes", header[0], size, maxFrame)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(f.in, payload); err != nil {
		return 0, nil, fmt.Errorf("reading logs: the stream ends inside a frame: %w", io.ErrUnexpectedEOF)
	}
	return header[0], payload, nil
}

// parsePiece splits "<RFC 3339 time> <key>=<value>,… <text>". Ended says whether the piece ends its line.
func parsePiece(payload []byte) (line logLine, ended bool, err error) {
	stamp, rest, found := bytes.Cut(payload, []byte{' '})
	if !found {
		return logLine{}, false, fmt.Errorf("reading logs: a piece without a time: %q", shorten(string(payload)))
	}
	if line.at, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
		return logLine{}, false, fmt.Errorf("reading logs: a piece without a time: %q", shorten(string(payload)))
	}
	details, text, found := bytes.Cut(rest, []byte{' '})
	if !found {
		details, text = rest, nil
	}
	for pair := range strings.SplitSeq(string(details), ",") {
		key, value, _ := strings.Cut(pair, "=")
		if key == "com.docker.swarm.task.id" {
			if line.task, err = url.QueryUnescape(value); err != nil {
				return logLine{}, false, fmt.Errorf("reading logs: details %q: %w", shorten(string(details)), err)
			}
		}
	}
	text, ended = bytes.CutSuffix(text, []byte{'\n'})
	line.text = string(text)
	return line, ended, nil
}
