// Package function tells the end-to-end tests what it was given, and writes log lines to order.
package function

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// New starts the beat: one line every duration of the environment's beat, if there is one.
func New(ctx context.Context) (http.Handler, error) {
	if text := os.Getenv("beat"); text != "" {
		every, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("reading beat: %w", err)
		}
		go beat(ctx, every)
	}
	mux := http.NewServeMux()
	remember(mux)
	mux.HandleFunc("/", echo)
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, os.Getenv(r.URL.Query().Get("name")))
	})
	mux.HandleFunc("/secret", secret)
	mux.HandleFunc("/lines", lines)
	mux.HandleFunc("/slow", slow)
	mux.HandleFunc("/base", base)
	return mux, nil
}

func beat(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for n := 1; ; n++ {
		fmt.Printf("beat %d\n", n)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.RequestURI())
	io.Copy(w, r.Body)
}

// slow answers after a while, with the number it was asked with.
func slow(w http.ResponseWriter, r *http.Request) {
	wait, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(wait):
		if name, err := os.Hostname(); err == nil {
			w.Header().Set("X-Replica", name)
		}
		fmt.Fprintf(w, "slow %s\n", r.URL.Query().Get("n"))
	case <-r.Context().Done():
	}
}

func secret(w http.ResponseWriter, r *http.Request) {
	content, err := os.ReadFile(filepath.Join("/var/openfaas/secrets", filepath.Base(r.URL.Query().Get("name"))))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(content)
}

// lines writes a line of each length in the body. Its letters follow from length and position, so that a part
// that is lost or moved shows.
func lines(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, field := range strings.Fields(string(body)) {
		length, err := strconv.Atoi(field)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		line := make([]byte, length+1)
		for i := range length {
			line[i] = byte('a' + (i*i+7*i+length)%26)
		}
		line[length] = '\n'
		if _, err := os.Stdout.Write(line); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	fmt.Fprintln(w, "written")
}
