//go:build go_http_new

package main

import (
	"context"
	"net/http"

	function "waggle/template/go-http/function"
)

// start makes the handler of a function that has New.
func start(ctx context.Context) (http.Handler, error) { return function.New(ctx) }
