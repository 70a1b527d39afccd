package async

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"waggle/provider/queued"
)

// recordVersion is the layout below; a record of another one is not guessed at.
const recordVersion = 1

// recordHead is the first line of a record: a JSON object. Behind it lie Target, Header and the body, raw, because their
// bytes need not be text.
type recordHead struct {
	Version  int    `json:"v"`
	Address  string `json:"address"`
	Function string `json:"function"`
	Callback string `json:"callback,omitempty"`
	Accepted int64  `json:"accepted"` // Unix ns
	Target   int    `json:"target"`   // bytes
	Header   int    `json:"header"`   // bytes
}

func encodeCall(c *queued.Call) ([]byte, error) {
	return joinRecord(recordHead{Version: recordVersion, Address: c.Address, Function: c.Function, Callback: c.Callback,
		Accepted: c.Accepted.UnixNano(), Target: len(c.Target), Header: len(c.Header)}, []byte(c.Target), c.Header, c.Body)
}

func decodeCall(id string, raw []byte) (queued.Call, error) {
	var head recordHead
	rest, err := splitRecord(raw, &head)
	if err != nil {
		return queued.Call{}, err
	}
	if head.Version != recordVersion {
		return queued.Call{}, fmt.Errorf("record version %d: known is %d", head.Version, recordVersion)
	}
	if head.Target < 1 || head.Header < 0 || head.Target > len(rest) || head.Header > len(rest)-head.Target {
		return queued.Call{}, fmt.Errorf("a target of %d and a header of %d bytes in %d bytes", head.Target, head.Header, len(rest))
	}
	target := rest[:head.Target]
	if head.Address == "" || head.Function == "" || target[0] != '/' {
		return queued.Call{}, errors.New("no address, function or target")
	}
	return queued.Call{ID: id, Address: head.Address, Function: head.Function, Target: string(target), Header: rest[head.Target : head.Target+head.Header],
		Body: rest[head.Target+head.Header:], Callback: head.Callback, Accepted: time.Unix(0, head.Accepted)}, nil
}

// result is what a callback delivers.
type result struct {
	resultHead
	// header is the function's, lines that end with CR LF.
	header, body []byte
}

// resultHead is the first line of a stored result.
type resultHead struct {
	Version  int    `json:"v"`
	Address  string `json:"address"`
	Callback string `json:"callback"`
	Status   int    `json:"status"`
	Seconds  string `json:"seconds"` // how long the function took
	Retries  int    `json:"retries"`
	Most     int    `json:"most"`              // retries that were legal
	Omitted  bool   `json:"omitted,omitempty"` // the body was too long to keep
	NoRoom   bool   `json:"no_room,omitempty"` // there was no memory for the body
	Header   int    `json:"header"`            // bytes
}

func (r *result) encode() ([]byte, error) {
	r.Version, r.Header = recordVersion, len(r.header)
	return joinRecord(r.resultHead, r.header, r.body)
}

func decodeResult(raw []byte) (*result, error) {
	var r result
	rest, err := splitRecord(raw, &r.resultHead)
	if err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("result version %d: known is %d", r.Version, recordVersion)
	}
	if r.Header < 0 || r.Header > len(rest) || r.Callback == "" {
		return nil, fmt.Errorf("a header of %d bytes in %d, or no callback", r.Header, len(rest))
	}
	r.header, r.body = rest[:r.resultHead.Header], rest[r.resultHead.Header:]
	return &r, nil
}

func joinRecord(head any, parts ...[]byte) ([]byte, error) {
	line, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	size := len(line) + 1
	for _, p := range parts {
		size += len(p)
	}
	record := append(append(make([]byte, 0, size), line...), '\n')
	for _, p := range parts {
		record = append(record, p...)
	}
	return record, nil
}

func splitRecord(raw []byte, head any) (rest []byte, err error) {
	line, rest, found := bytes.Cut(raw, []byte("\n"))
	if !found {
		return nil, errors.New("a record without a first line")
	}
	if err := json.Unmarshal(line, head); err != nil {
		return nil, fmt.Errorf("decoding a record's first line: %w", err)
	}
	return rest, nil
}

// phase is how far a call has come.
type phase string

const (
	// invoking: the function is to be called.
	invoking phase = "invoke"
	// delivering: the function is done with, its result is to be delivered.
	delivering phase = "callback"
	// buried: a dead letter.
	buried phase = "dead"
)

// state is what changes about a call.
type state struct {
	Function string `json:"fn"`
	Accepted int64  `json:"at"` // Unix ms
	Phase    phase  `json:"phase"`
	// Tries is how many attempts of this phase have failed.
	Tries int `json:"tries,omitempty"`
	// Callback: the client wants to know the result.
	Callback bool `json:"callback,omitempty"`
	// Reason is why the function failed for good, and of a dead letter why it is one.
	Reason string `json:"reason,omitempty"`
	// Owed: only the delivery of the result of this dead letter has failed; to queue it again means to deliver it.
	Owed bool `json:"owed,omitempty"`
}

// maxReason bounds what is kept of a reason in bytes: states are read in bulk.
const maxReason = 300

func (s state) encode() []byte {
	s.Reason = s.Reason[:min(len(s.Reason), maxReason)]
	text, _ := json.Marshal(s) // strings, numbers and truth values always can be
	return text
}

func decodeState(text string) (state, error) {
	var s state
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return state{}, fmt.Errorf("decoding a state: %w", err)
	}
	if s.Phase != invoking && s.Phase != delivering && s.Phase != buried || s.Function == "" || s.Tries < 0 {
		return state{}, fmt.Errorf("decoding a state: phase %q of function %q after %d attempts", s.Phase, s.Function, s.Tries)
	}
	return s, nil
}
