package swarm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// beginTimeout is how long a manager may take to begin the stream; it does so at once.
	beginTimeout = 30 * time.Second
	// grpcHeader is what gRPC puts before each message: a byte for its compression, and its length, big-endian.
	grpcHeader = 5
	// maxMessage bounds one message. A message holds what one transaction changed: some 10,000 tasks at once if
	// a manager takes over another's state. A longer one ends the stream, which is opened again after it.
	maxMessage = 32 << 20
	// keptMessage bounds what is kept of one message's room for the next.
	keptMessage = 1 << 20
)

// taskService is the path of field numbers from a WatchMessage to each task's service id: events, object, task,
// service_id. (swarmkit, api/watch.proto and api/objects.proto.)
var taskService = []protowire.Number{1, 2, 4, 4}

// ControlSocket is the path of the socket on which the engine of a manager serves swarmkit's own API. The engine
// reads its events of services and nodes there. Those of tasks are there as well (API Watch, since 17.06), but it
// passes none on. A manager sends events of what its own store has taken over, while lists come from the leader.
// Where the two differ, an event usually comes after the list shows its change.
//
// The protocol is gRPC, a POST over HTTP/2 with one message up and many down. grpc-go would make the binary 1.7
// times as large, swarmkit's package 2.1 times. Each health check is a process of that binary.
type ControlSocket string

// FollowTasks implements [TaskEvents]. It always reads on, since the manager keeps what a reader does not take.
func (s ControlSocket) FollowTasks(ctx context.Context, begun func(), changed func(service string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bound := time.AfterFunc(beginTimeout, func() { cancel(fmt.Errorf("the manager did not begin within %s", beginTimeout)) })
	defer bound.Stop()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", string(s))
	if err != nil {
		return fmt.Errorf("following tasks: %w", err)
	}
	defer conn.Close()
	err = watch(ctx, conn, func() { bound.Stop(); begun() }, changed)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("following tasks at %s: %w", string(s), err)
}

// watch makes the one call that a connection is for, and reads its answer to the end.
func watch(ctx context.Context, conn net.Conn, begun func(), changed func(service string)) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://manager/docker.swarmkit.v1.Watch/Watch", bytes.NewReader(watchRequest()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	var dialled atomic.Bool
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if dialled.Swap(true) {
				return nil, errors.New("the manager refused the stream") // net/http would try once more
			}
			return conn, nil
		},
		// Who may open the socket is what protects it. The certificate is the node's own in the Swarm, with a name that
		// is its id; the engine itself does not check it here either.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a socket of this machine's root, see above
		Protocols:       &protocols, DisableCompression: true,
	}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || !strings.HasPrefix(kind, "application/grpc") {
		return fmt.Errorf("the answer is no gRPC: status %d, %q", response.StatusCode, kind)
	}
	err = readEvents(response.Body, begun, changed)
	if errors.Is(err, io.EOF) {
		return grpcStatus(response)
	}
	return err
}

// watchRequest asks for all changes of tasks. It is a WatchRequest with one entry, of kind task. The entry's actions
// are create, update and remove (1 + 2 + 4).
func watchRequest() []byte {
	entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "task")
	entry = protowire.AppendVarint(protowire.AppendTag(entry, 2, protowire.VarintType), 1+2+4)
	message := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), entry)
	framed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(framed, message...)
}

// readEvents reads messages until they end, which is io.EOF. The first is empty: the manager has begun, and sends
// every event from here on.
func readEvents(stream io.Reader, begun func(), changed func(service string)) error {
	in := bufio.NewReader(stream)
	var message bytes.Buffer
	for first := true; ; first = false {
		var header [grpcHeader]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(header[1:])
		if header[0] != 0 || size > maxMessage {
			return fmt.Errorf("a message of %d bytes with compression %d; want at most %d and none", size, header[0], maxMessage)
		}
		if message.Reset(); message.Cap() > keptMessage {
			message = bytes.Buffer{}
		}
		if _, err := io.CopyN(&message, in, int64(size)); err != nil {
			return fmt.Errorf("the stream ends inside a message: %w", io.ErrUnexpectedEOF)
		}
		if first {
			begun()
		}
		if err := eachField(message.Bytes(), taskService, changed); err != nil {
			return fmt.Errorf("a message that cannot be read: %w", err)
		}
	}
}

// eachField visits the values at a path of field numbers in a message of protocol buffers.
func eachField(message []byte, path []protowire.Number, visit func(value string)) error {
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		message = message[length:]
		length = protowire.ConsumeFieldValue(number, kind, message)
		if length < 0 {
			return protowire.ParseError(length)
		}
		if number == path[0] && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			if len(path) == 1 {
				visit(string(value))
			} else if err := eachField(value, path[1:], visit); err != nil {
				return err
			}
		}
		message = message[length:]
	}
	return nil
}

// grpcStatus is why a stream ended. A refusal has no body: its status is among the headers.
func grpcStatus(response *http.Response) error {
	from := response.Trailer
	if from.Get("Grpc-Status") == "" {
		from = response.Header
	}
	return fmt.Errorf("the manager ended the stream: gRPC status %q %q", from.Get("Grpc-Status"), from.Get("Grpc-Message"))
}
