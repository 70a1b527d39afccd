package http2

import (
	"bytes"
	"strings"
	"testing"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"

	"waggle/provider/gateway/http1"
	"waggle/provider/gateway/sock"
)

// FuzzRequest translates a head and has the gateway's parser read it. Whatever the parser accepts must say what
// was sent, be framed as HTTP/2 framed it, and end where it ends.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/function/f", "h:80", "accept", "*/*", "x", "y", true)
	f.Add("POST", "/?a=b c", "", "host", "h", "content-length", "3", false)
	f.Add("GET /x HTTP/1.1\r\nhost: y\r\n\r\nGET", "/", "h", "cookie", "a", "cookie", "b", true)
	f.Add("OPTIONS", "*", "h", "transfer-encoding", "chunked", "te", "trailers", false)
	f.Add("CONNECT", "", "h:1", "connection", "x", "expect", "100-continue", false)
	f.Add("PUT", "/a\r\n", "h\r\nx: y", "n\r\nm", "v\r\nw: z", "trailer", "x", false)
	f.Fuzz(func(t *testing.T, method, path, authority, name1, value1, name2, value2 string, end bool) {
		c := &Conn{cfg: &Config{MaxHeader: 16 << 10, Unread: &sock.Budget{Most: MaxUnread}}}
		b := &c.block
		b.c = c
		b.decoder = hpack.NewDecoder(tableSize, b.emit)
		b.request.reset()
		defer b.request.drop()
		for _, field := range [][2]string{{":method", method}, {":scheme", "http"}, {":path", path}, {":authority", authority}, {name1, value1}, {name2, value2}} {
			if field[1] != "" || field[0] != ":authority" && field[0] != ":path" {
				b.emit(hpack.HeaderField{Name: field[0], Value: field[1]})
			}
		}
		if b.malformed || b.long || !b.request.complete(end, false) {
			return
		}
		var got http1.Request
		n, perr := got.Parse(b.request.head, 8<<10)
		if perr != nil {
			return // the last word is the parser's
		}
		target := path
		if method == "CONNECT" {
			target = authority
		}
		if n != len(b.request.head) || string(got.Method) != method || string(got.Target) != target || authority != "" && string(got.Host) != authority {
			t.Fatalf("%q says %s %s to %s", b.request.head, got.Method, got.Target, got.Host)
		}
		if chunked := got.Body.Chunked(); chunked != b.request.chunked || end && !got.Body.Empty() || !chunked && !end && got.Body.Length() != b.request.declared {
			t.Fatalf("%q frames another body", b.request.head)
		}
		for _, field := range [][2]string{{name1, value1}, {name2, value2}} {
			if !kept(&got, field[0], field[1]) {
				t.Fatalf("%q has lost %q", b.request.head, field)
			}
		}
	})
}

// kept reports whether a field has come through, unless it is one that does not.
func kept(r *http1.Request, name, value string) bool {
	switch name {
	case "te", "content-length":
		return true
	}
	fields := r.All()
	for i := range fields {
		if string(r.Name(&fields[i])) == name && (string(r.Value(&fields[i])) == value || name == "cookie" && strings.Contains(string(r.Value(&fields[i])), value)) {
			return true
		}
	}
	return strings.HasPrefix(name, ":")
}

func TestEncodedFieldsAreWhatADecoderReads(t *testing.T) {
	t.Parallel()
	names := rapid.OneOf(rapid.SampledFrom([]string{"Content-Type", "ETAG", "set-cookie", "X-Call-Id", "www-authenticate", "Via"}), rapid.StringMatching(`[!-'*+.0-9A-Z^-z|~-]{1,90}`))
	rapid.Check(t, func(t *rapid.T) {
		status := rapid.IntRange(100, 599).Draw(t, "status")
		block := append([]byte{shutTable}, appendStatus(nil, status)...)
		want := []string{":status", string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)})}
		for range rapid.IntRange(0, 9).Draw(t, "fields") {
			name, value := names.Draw(t, "name"), rapid.StringMatching(`[ -~]{0,300}`).Draw(t, "value")
			block = appendField(block, []byte(name), []byte(value))
			want = append(want, strings.ToLower(name), value)
		}
		fields, err := hpack.NewDecoder(tableSize, nil).DecodeFull(block)
		var got []string
		for _, f := range fields {
			got = append(got, f.Name, f.Value)
			if f.Sensitive != (f.Name == "set-cookie") {
				t.Errorf("%s may be indexed: %t", f.Name, !f.Sensitive)
			}
		}
		if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("got %q, error %v\nwant %q", got, err, want)
		}
	})
}

func TestLongBlocksAreSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "before")
		block := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "block")
		longest := rapid.IntRange(1, 250).Draw(t, "longest")
		b := appendHeader(bytes.Clone(before), 0, wire.FrameHeaders, wire.FlagHeadersEndStream, 7)
		b = splitBlock(append(b, block...), len(before), longest, 7)
		if !bytes.HasPrefix(b, before) {
			t.Fatalf("%x has become %x", before, b)
		}
		r := wire.NewFramer(nil, bytes.NewReader(b[len(before):]))
		var got []byte
		for ended := false; !ended; {
			switch f, err := r.ReadFrame(); f := f.(type) {
			case *wire.HeadersFrame:
				got, ended = append(got, f.HeaderBlockFragment()...), f.HeadersEnded()
				if !f.StreamEnded() || int(f.Length) > longest {
					t.Fatalf("got %v", f)
				}
			case *wire.ContinuationFrame:
				got, ended = append(got, f.HeaderBlockFragment()...), f.HeadersEnded()
				if int(f.Length) > longest {
					t.Fatalf("got %v", f)
				}
			default:
				t.Fatalf("got %v, error %v", f, err)
			}
		}
		if !bytes.Equal(got, block) {
			t.Fatalf("got %x, want %x", got, block)
		}
	})
}
