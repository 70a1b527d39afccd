package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// within is a client of the gateway from its own process.
func (e *edge) within(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Dial(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestInnerConnections(t *testing.T) {
	t.Parallel()
	r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s for=%v proto=%v %d", r.RequestURI, r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], len(body))
	})
	// The bounds on clients leave no room for any: they are not for inner connections.
	e := start(t, func(c *Config) { c.MaxConns, c.MaxConnsPerIP = 1, 1 }, function("f", r))
	client := e.within(t)
	var group sync.WaitGroup
	for n := range 20 {
		group.Go(func() {
			size := n * 20_000 // from none to more than what is read whole
			request, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://gateway/function/f/%d", n), strings.NewReader(strings.Repeat("x", size)))
			if err != nil {
				t.Error(err)
				return
			}
			request.Header.Set("X-Forwarded-For", "192.0.2.7")
			request.Header.Set("X-Forwarded-Proto", "https")
			response, err := client.Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if want := fmt.Sprintf("/%d for=[192.0.2.7] proto=[https] %d", n, size); err != nil || string(body) != want {
				t.Errorf("got %q, %v; want %q", body, err, want)
			}
		})
	}
	group.Wait()
}

func TestInnerCallerThatLeavesIsNoticed(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	r := newReplica(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(left)
	})
	e := start(t, nil, function("f", r))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/function/f", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.within(t).Do(request); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the function was never told that its caller had left")
	}
}

func TestNoInnerConnectionWhileStopping(t *testing.T) {
	t.Parallel()
	e := start(t, nil)
	e.stop()
	if _, err := e.Dial(t.Context()); !errors.Is(err, ErrStopping) {
		t.Errorf("got %v, want ErrStopping", err)
	}
}
