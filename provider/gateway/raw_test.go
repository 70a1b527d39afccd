package gateway

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// TestRawRequests sends bytes as an attacker or a broken client would. It checks the answer, and that nothing refused
// reached the function. want is the status of each response on the connection, in order. After the last one the
// connection must be closed if close is set.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	const get = "GET /function/echo"
	const post = "POST /function/echo HTTP/1.1\r\nHost: h\r\n"
	type want struct {
		statuses []int
		reached  int // requests that the function saw
		says     string
	}
	ok := func(n int, says string) want {
		w := want{reached: n, says: says}
		for range n {
			w.statuses = append(w.statuses, 200)
		}
		return w
	}
	refused := func(status int) want { return want{statuses: []int{status}} }
	for name, tc := range map[string]struct {
		raw string
		want
	}{
		// What must work.
		"plain":                              {get + " HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET / ")},
		"no field white space":               {get + " HTTP/1.1\r\nHost:h\r\nA:b\r\n\r\n", ok(1, "")},
		"one empty line before":              {"\r\n" + get + " HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "")},
		"absolute form":                      {"GET http://other/function/echo/x HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "xfh=other")},
		"with default namespace":             {get + ".openfaas-fn/x HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET /x ")},
		"double slash stays":                 {get + "//a//b HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET //a//b ")},
		"encoded slash stays":                {get + "/a%2Fb HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET /a%2Fb ")},
		"dots stay":                          {get + "/a/../b/. HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET /a/../b/. ")},
		"query stays":                        {get + "?a=b;c&d=%zz HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET /?a=b;c&d=%zz ")},
		"question mark without query":        {get + "? HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET /? ")},
		"raw UTF-8 in the path":              {get + "/ü HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "GET /ü ")},
		"unknown method":                     {"BREW /function/echo HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "BREW / ")},
		"length":                             {post + "Content-Length: 3\r\n\r\nabc", ok(1, "body=abc")},
		"length zero":                        {post + "Content-Length: 0\r\n\r\n", ok(1, "body= ")},
		"chunks":                             {post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", ok(1, "body=abcde")},
		"chunks in capitals":                 {post + "TRANSFER-ENCODING: CHUNKED\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", ok(1, "body=0123456789")},
		"chunk extension":                    {post + "Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", ok(1, "body=abc")},
		"trailer":                            {post + "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n", ok(1, "trailer=6")},
		"pipelined":                          {get + "/1 HTTP/1.1\r\nHost: h\r\n\r\n" + get + "/2 HTTP/1.1\r\nHost: h\r\n\r\n", ok(2, "GET /2 ")},
		"pipelined behind a body":            {post + "Content-Length: 3\r\n\r\nabc" + get + "/2 HTTP/1.1\r\nHost: h\r\n\r\n", ok(2, "GET /2 ")},
		"pipelined behind chunks":            {post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + get + "/2 HTTP/1.1\r\nHost: h\r\n\r\n", ok(2, "GET /2 ")},
		"connection close":                   {get + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + get + " HTTP/1.1\r\nHost: h\r\n\r\n", ok(1, "")},
		"HTTP/1.0":                           {get + " HTTP/1.0\r\n\r\n" + get + " HTTP/1.0\r\n\r\n", ok(1, "")},
		"HTTP/1.0 keep-alive":                {get + " HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get + " HTTP/1.0\r\n\r\n", ok(2, "")},
		"connection named fields are gone":   {get + " HTTP/1.1\r\nHost: h\r\nConnection: x-secret\r\nX-Secret: 1\r\n\r\n", ok(1, "secret= ")},
		"connection cannot drop the length":  {post + "Connection: content-length\r\nContent-Length: 3\r\n\r\nabc", ok(1, "body=abc")},
		"connection cannot drop credentials": {get + " HTTP/1.1\r\nHost: h\r\nConnection: authorization\r\nAuthorization: Bearer x\r\n\r\n", ok(1, "auth=Bearer x")},
		"upgrade to h2c is not passed on":    {get + " HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", ok(1, "upgrade= ")},
		"forwarded-for is appended":          {get + " HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.1.1.1\r\nX-Forwarded-For: 10.2.2.2\r\n\r\n", ok(1, "xff=10.1.1.1, 10.2.2.2, 127.0.0.1 ")},
		"forwarded-host and proto are kept":  {get + " HTTP/1.1\r\nHost: h\r\nX-Forwarded-Host: a\r\nX-Forwarded-Proto: https\r\n\r\n", ok(1, "xfh=a xfp=https")},
		"forwarded-host and proto are made":  {get + " HTTP/1.1\r\nHost: h:81\r\n\r\n", ok(1, "xfh=h:81 xfp=http ")},
		"call id is kept":                    {get + " HTTP/1.1\r\nHost: h\r\nX-Call-Id: mine\r\n\r\n", ok(1, "id=[mine] ")},
		"of several call ids, the valid one": {get + " HTTP/1.1\r\nHost: h\r\nX-Call-Id: a b\r\nX-Call-Id: mine\r\nX-Call-Id: late\r\n\r\n", ok(1, "id=[mine] ")},
		"expect with the body at hand":       {post + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", ok(1, "body=abc")},
		"healthz":                            {"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", want{[]int{200}, 0, "functions"}},
		"healthz by POST":                    {"POST /healthz HTTP/1.1\r\nHost: h\r\n\r\n", refused(405)},
		"root":                               {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", want{[]int{200}, 0, "gateway to serverless functions"}},
		"options for the server":             {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", refused(204)},

		// Functions that are none.
		"unknown function":            {"GET /function/nobody HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"unknown, connection goes on": {"GET /function/nobody HTTP/1.1\r\nHost: h\r\n\r\n" + get + " HTTP/1.1\r\nHost: h\r\n\r\n", want{[]int{404, 200}, 1, ""}},
		"unknown with a short body":   {"POST /function/nobody HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" + get + " HTTP/1.1\r\nHost: h\r\n\r\n", want{[]int{404, 200}, 1, ""}},
		"unknown namespace":           {get + ".other HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"last dot splits":             {"GET /function/a.echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"empty name":                  {"GET /function/ HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"only a namespace":            {"GET /function/.openfaas-fn HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"encoded name":                {"GET /function/ech%6f HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"dot dot name":                {"GET /function/../system/functions HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"two slashes first":           {"GET //function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},
		"capital prefix":              {"GET /Function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(404)},

		// Framing that two readers could understand in two ways.
		"length and chunks":               {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused(400)},
		"chunks and length":               {post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", refused(400)},
		"two lengths":                     {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", refused(400)},
		"two equal lengths":               {post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", refused(400)},
		"list of lengths":                 {post + "Content-Length: 3, 3\r\n\r\nabc", refused(400)},
		"signed length":                   {post + "Content-Length: +3\r\n\r\nabc", refused(400)},
		"negative length":                 {post + "Content-Length: -1\r\n\r\n", refused(400)},
		"hexadecimal length":              {post + "Content-Length: 0x3\r\n\r\nabc", refused(400)},
		"empty length":                    {post + "Content-Length: \r\n\r\n", refused(400)},
		"huge length":                     {post + "Content-Length: 99999999999999999999\r\n\r\n", refused(400)},
		"two codings fields":              {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused(400)},
		"chunked twice":                   {post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", refused(501)},
		"gzip and chunked":                {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", refused(501)},
		"identity":                        {post + "Transfer-Encoding: identity\r\n\r\n", refused(501)},
		"misspelt coding":                 {post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", refused(501)},
		"coding with a tab inside":        {post + "Transfer-Encoding: chu\tnked\r\n\r\n0\r\n\r\n", refused(501)},
		"coding with vertical tab":        {post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", refused(400)},
		"coding in HTTP/1.0":              {"POST /function/echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused(400)},
		"space before the colon":          {post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", refused(400)},
		"space before the length's colon": {post + "Content-Length : 3\r\n\r\nabc", refused(400)},
		"folded field":                    {post + "A: b\r\n c\r\n\r\n", refused(400)},
		"folded coding":                   {post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", refused(400)},
		"first field indented":            {get + " HTTP/1.1\r\n Host: h\r\n\r\n", refused(400)},
		"bare LF after the request line":  {get + " HTTP/1.1\nHost: h\r\n\r\n", refused(400)},
		"bare LF after a field":           {get + " HTTP/1.1\r\nHost: h\n\r\n", refused(400)},
		"bare LFs only":                   {get + " HTTP/1.1\nHost: h\n\n", refused(400)},
		"bare CR in a value":              {get + " HTTP/1.1\r\nHost: h\r\nA: b\rContent-Length: 3\r\n\r\n", refused(400)},
		"bare CR in the request line":     {get + "\r HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"NUL in a value":                  {get + " HTTP/1.1\r\nHost: h\r\nA: b\x00c\r\n\r\n", refused(400)},
		"NUL in a name":                   {get + " HTTP/1.1\r\nHost: h\r\nA\x00: b\r\n\r\n", refused(400)},
		"NUL in the target":               {get + "/\x00 HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"field without a name":            {get + " HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n", refused(400)},
		"field without a colon":           {get + " HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n", refused(400)},
		"comma in a name":                 {get + " HTTP/1.1\r\nHost: h\r\na,b: c\r\n\r\n", refused(400)},
		"chunk size without digits":       {post + "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk size with a sign":          {post + "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk size with 0x":              {post + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk size with a space":         {post + "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk size of 17 digits":         {post + "Transfer-Encoding: chunked\r\n\r\n00000000000000003\r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk size that overflows":       {post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk line ends with LF":         {post + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk extension with LF":         {post + "Transfer-Encoding: chunked\r\n\r\n3;\nxx\r\nabc\r\n0\r\n\r\n", refused(400)},
		"chunk longer than its size":      {post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", refused(400)},
		"chunk ends with LF":              {post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", refused(400)},
		"length as a trailer":             {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", refused(400)},
		"host as a trailer":               {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nHost: other\r\n\r\n", refused(400)},
		"credentials as a trailer":        {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Basic x\r\n\r\n", refused(400)},
		"trailer with a space":            {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n", refused(400)},

		// Heads that are wrong in themselves.
		"no host":                   {get + " HTTP/1.1\r\n\r\n", refused(400)},
		"two hosts":                 {get + " HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", refused(400)},
		"host with a path":          {get + " HTTP/1.1\r\nHost: a/b\r\n\r\n", refused(400)},
		"host with a user":          {get + " HTTP/1.1\r\nHost: u@h\r\n\r\n", refused(400)},
		"host with a space":         {get + " HTTP/1.1\r\nHost: a b\r\n\r\n", refused(400)},
		"two credentials":           {get + " HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", refused(400)},
		"HTTP/0.9":                  {get + "\r\n\r\n", refused(400)},
		"HTTP/2.0":                  {get + " HTTP/2.0\r\nHost: h\r\n\r\n", refused(505)},
		"nearly HTTP/2.0's preface": {"PRI /a HTTP/2.0\r\n\r\nSM\r\n\r\n", refused(505)},
		"HTTP/2.0 behind a request": {get + " HTTP/1.1\r\nHost: h\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want{[]int{200, 505}, 1, ""}},
		"HTTP/1.2":                  {get + " HTTP/1.2\r\nHost: h\r\n\r\n", refused(505)},
		"HTTP/3.1":                  {get + " HTTP/3.1\r\nHost: h\r\n\r\n", refused(505)},
		"HTTP/1.10":                 {get + " HTTP/1.10\r\nHost: h\r\n\r\n", refused(400)},
		"lower-case version":        {get + " http/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"no version":                {get + " \r\nHost: h\r\n\r\n", refused(400)},
		"two spaces":                {"GET  /function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"tab as a space":            {"GET\t/function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"space in the target":       {get + "/a b HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"space at the end":          {get + " HTTP/1.1 \r\nHost: h\r\n\r\n", refused(400)},
		"two empty lines before":    {"\r\n\r\n" + get + " HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"method with a colon":       {"GE:T /function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"long method":               {strings.Repeat("M", 30) + " / HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"target without slash":      {"GET function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"star for GET":              {"GET * HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"other scheme":              {"GET ftp://h/function/echo HTTP/1.1\r\nHost: h\r\n\r\n", refused(400)},
		"CONNECT":                   {"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", refused(405)},
		"other expectation":         {post + "Expect: miracles\r\nContent-Length: 0\r\n\r\n", refused(417)},
		"TLS on the plain port":     {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", refused(400)},
		"long target":               {get + "/" + strings.Repeat("a", 8200) + " HTTP/1.1\r\nHost: h\r\n\r\n", refused(414)},
		"long head":                 {get + " HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 17<<10) + "\r\n\r\n", refused(431)},
		"long head without an end":  {get + " HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 17<<10), refused(431)},
		"many fields":               {get + " HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("a: b\r\n", 120) + "\r\n", refused(431)},
		"long body":                 {post + "Content-Length: 1000001\r\n\r\nabc", refused(413)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reached atomic.Int32
			r := newReplica(t, func(w http.ResponseWriter, r *http.Request) {
				reached.Add(1)
				body, err := io.ReadAll(r.Body)
				if err != nil {
					reached.Add(-1) // refused in the middle: the function noticed
					return
				}
				h := r.Header
				fmt.Fprintf(w, "%s %s body=%s trailer=%s secret=%s auth=%s upgrade=%s xff=%s xfh=%s xfp=%s id=%s .", r.Method, r.RequestURI, body,
					r.Trailer.Get("X-Sum"), h.Get("X-Secret"), h.Get("Authorization"), h.Get("Upgrade"), h.Get("X-Forwarded-For"),
					h.Get("X-Forwarded-Host"), h.Get("X-Forwarded-Proto"), h["X-Call-Id"])
			})
			e := start(t, func(c *Config) { c.MaxBody = 1000000 }, function("echo", r))
			c, in := e.dial(t)
			if _, err := io.WriteString(c, tc.raw); err != nil {
				t.Fatal(err)
			}
			method, _, _ := strings.Cut(strings.TrimSpace(tc.raw), " ")
			var body string
			for i, status := range tc.statuses {
				var resp *http.Response
				resp, body = readResponse(t, in, method)
				if resp.StatusCode != status {
					t.Fatalf("response %d is %s %q, want %d", i+1, resp.Status, body, status)
				}
				if ours := resp.Header.Get("X-OpenFaaS-Internal"); (ours == "gateway") != (status >= 400) {
					t.Errorf("response %d, status %d, has X-OpenFaaS-Internal %q", i+1, status, ours)
				}
			}
			if !strings.Contains(body, tc.says) {
				t.Errorf("the last response is %q, want it to hold %q", body, tc.says)
			}
			if n := int(reached.Load()); n != tc.reached {
				t.Errorf("%d requests reached the function, want %d", n, tc.reached)
			}
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if rest, _ := io.ReadAll(in); len(rest) > 0 {
				t.Errorf("more came: %q", rest)
			}
		})
	}
}
