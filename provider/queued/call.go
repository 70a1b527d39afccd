// Package queued is the asynchronous call: what the gateway makes of a client's request, and the queue keeps and makes.
//
// Gateway and queue do not know each other; this is what passes between them, and all of it.
package queued

import "time"

// Call is one asynchronous call: what the client sent, as the function is to get it.
type Call struct {
	// ID names the call, chosen by the client or made by the gateway; see feed.ValidCallID.
	ID string
	// Address is the function's as the client wrote it, name or name.namespace; Function is name.namespace.
	Address, Function string
	// Target is the path and query for the function, byte for byte; it begins with "/".
	Target string
	// Header is its header, lines that end with CR LF: nothing in it concerns the client's connection or the body's length.
	Header []byte
	Body   []byte
	// Callback is where the result goes, as the client wrote it; empty: nowhere.
	Callback string
	Accepted time.Time
}
