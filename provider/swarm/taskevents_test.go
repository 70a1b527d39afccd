package swarm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// bytesCodec leaves messages as they are on the wire.
type bytesCodec struct{}

func (bytesCodec) Name() string                       { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }

// message is a field with a number, which holds what its parts are.
func message(number protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), slices.Concat(parts...))
}

// taskEvent is a WatchMessage_Event of an update of a task: what else there is stands around the id of its service.
func taskEvent(service string) []byte {
	task := slices.Concat(message(1, []byte("task-id")), message(3, message(4, []byte("not this"))), message(4, []byte(service)),
		protowire.AppendVarint(protowire.AppendTag(nil, 5, protowire.VarintType), 7))
	action := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 2)
	return message(1, action, message(2, message(4, task)), message(3, message(4, message(4, []byte("nor that")))))
}

// manager is a real gRPC server with TLS behind a socket, whose calls to Watch are handled by watch.
func manager(t *testing.T, socket string, watch func(request []byte, stream grpc.ServerStream) error) *grpc.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		ClientAuth:   tls.VerifyClientCertIfGiven, // as swarmkit has it
	})))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "docker.swarmkit.v1.Watch", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			var request []byte
			if err := stream.RecvMsg(&request); err != nil {
				return err
			}
			return watch(request, stream)
		}}},
	}, nil)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return server
}

func send(t *testing.T, stream grpc.ServerStream, events ...[]byte) {
	t.Helper()
	whole := slices.Concat(events...)
	if err := stream.SendMsg(&whole); err != nil {
		t.Error(err)
	}
}

// follow runs FollowTasks, and gives what it calls and returns.
func follow(ctx context.Context, socket string) (begun chan struct{}, changed chan string, over chan error) {
	begun, changed, over = make(chan struct{}, 1), make(chan string, 1000), make(chan error, 1)
	go func() {
		over <- ControlSocket(socket).FollowTasks(ctx, func() { begun <- struct{}{} }, func(service string) { changed <- service })
	}()
	return begun, changed, over
}

// receive takes the next value of a channel; a machine that stands still may make it late.
func receive[T any](t *testing.T, from chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(time.Minute):
		t.Fatal("nothing came within a minute")
		panic("unreachable")
	}
}

func TestFollowTasks(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	long := strings.Repeat("x", 3<<20) // more than a window of HTTP/2
	goOn := make(chan struct{})
	server := manager(t, socket, func(request []byte, stream grpc.ServerStream) error {
		// WatchRequest{Entries: {{Kind: "task", Action: create|update|remove}}}, as swarmkit's package writes it.
		if want := "\x0a\x08\x0a\x04task\x10\x07"; string(request) != want {
			t.Errorf("asked for %q, want %q", request, want)
		}
		send(t, stream)
		<-goOn
		send(t, stream, taskEvent("one"), taskEvent("two"), message(1, message(2, message(2, message(4, []byte("a service, no task"))))))
		send(t, stream, message(2, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 9)))
		send(t, stream, taskEvent(long))
		<-stream.Context().Done()
		return nil
	})
	begun, changed, over := follow(t.Context(), socket)
	receive(t, begun)
	close(goOn)
	for _, want := range []string{"one", "two", long} {
		if got := receive(t, changed); got != want {
			t.Errorf("changed: %.20q, want %.20q", got, want)
		}
	}
	server.Stop() // an engine that restarts
	if err := receive(t, over); err == nil {
		t.Error("the stream was cut and FollowTasks returned nil")
	}
	if len(begun)+len(changed) > 0 {
		t.Errorf("called besides: %d begun, %d changed", len(begun), len(changed))
	}
}

func TestFollowTasksUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	left := make(chan struct{})
	manager(t, socket, func(_ []byte, stream grpc.ServerStream) error {
		send(t, stream)
		<-stream.Context().Done()
		close(left)
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	begun, _, over := follow(ctx, socket)
	receive(t, begun)
	cancel()
	if err := receive(t, over); !errors.Is(err, context.Canceled) {
		t.Errorf("returned %v, want that the context ended", err)
	}
	receive(t, left)
}

func TestFollowTasksFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		watch func(t *testing.T, stream grpc.ServerStream) error
		want  string
	}{
		"refused": {func(*testing.T, grpc.ServerStream) error { return status.Error(codes.InvalidArgument, "no such kind") }, `gRPC status "3" "no such kind"`},
		"ended": {func(t *testing.T, s grpc.ServerStream) error {
			send(t, s)
			return status.Error(codes.Canceled, "demoted")
		}, `gRPC status "1" "demoted"`},
		"ended without word": {func(t *testing.T, s grpc.ServerStream) error { send(t, s); return nil }, `gRPC status "0"`},
		"no message": {func(t *testing.T, s grpc.ServerStream) error {
			send(t, s, []byte{0x0a, 200, 1})
			<-s.Context().Done()
			return nil
		}, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			socket := filepath.Join(t.TempDir(), "control.sock")
			manager(t, socket, func(_ []byte, stream grpc.ServerStream) error { return test.watch(t, stream) })
			_, _, over := follow(t.Context(), socket)
			if err := receive(t, over); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("returned %v, want %s", err, test.want)
			}
		})
	}
	t.Run("no socket", func(t *testing.T) {
		t.Parallel()
		_, _, over := follow(t.Context(), filepath.Join(t.TempDir(), "control.sock"))
		if err := receive(t, over); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("returned %v", err)
		}
	})
}

func FuzzReadEvents(f *testing.F) {
	framed := func(event []byte) string { return string([]byte{0, 0, 0, 0, byte(len(event))}) + string(event) }
	f.Add(framed(nil) + framed(taskEvent("one")))
	f.Add(framed(slices.Concat(taskEvent("one"), taskEvent(""))))
	f.Add("\x00\xff\xff\xff\xff")
	f.Add("\x01\x00\x00\x00\x00")
	f.Fuzz(func(t *testing.T, stream string) {
		begun, services := 0, 0
		err := readEvents(strings.NewReader(stream), func() { begun++ }, func(service string) { services += 1 + len(service) })
		if err == nil || begun > 1 || begun == 0 && services > 0 || services > len(stream) {
			t.Errorf("begun %d times, %d services and bytes of them, %v", begun, services, err)
		}
	})
}
