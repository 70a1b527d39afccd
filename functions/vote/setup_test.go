package vote

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waggle/deploy/lab/harness"
)

func TestMain(m *testing.M) {
	// The harness's guardian pipe and its servers live as long as the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait"), goleak.IgnoreAnyFunction("os.(*Process).Wait"))
}

var (
	keyA = strings.Repeat("a1", 32)
	keyB = strings.Repeat("b2", 32)
	keyP = strings.Repeat("c3", 32)
)

func testKeys(t testing.TB, text string) *keys {
	t.Helper()
	k, err := parseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const pollFile = `{"polls":[
	{"id":1,"slug":"pets","question":"Cats or <dogs>?","options":[{"id":1,"slug":"cats","name":"Cats"},{"id":2,"slug":"dogs","name":"Dogs & co"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live"},
	{"id":2,"slug":"past","question":"Past?","options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}],
	 "opens":"2020-01-01T00:00:00Z","closes":"2021-01-01T00:00:00Z","mode":"first","results":"closed"},
	{"id":3,"slug":"future","question":"Future?","options":[{"id":1,"slug":"yes","name":"Yes"},{"id":2,"slug":"no","name":"No"}],
	 "opens":"2099-01-01T00:00:00Z","closes":"2100-01-01T00:00:00Z","mode":"last","results":"live"}]}`

// bundle is a handler on a Redis of its own.
type bundle struct {
	*handler
	t     testing.TB
	redis *harness.RedisServer
	logs  *lockedBuffer
	// started is when the handler was made.
	started time.Time
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func setup(t testing.TB, change func(*config)) *bundle {
	t.Helper()
	r := harness.Redis(t)
	b := setupWith(t, func(c *config) {
		c.socket = r.Socket()
		if change != nil {
			change(c)
		}
	})
	b.redis = r
	b.probe()
	return b
}

// setupWith makes a handler whose gate has not been tried yet by the test.
func setupWith(t testing.TB, change func(*config)) *bundle {
	t.Helper()
	polls, err := parsePolls([]byte(pollFile))
	if err != nil {
		t.Fatal(err)
	}
	c := config{user: "capture", password: harness.RedisPassword, polls: polls,
		keys: testKeys(t, "poll:"+keyP+"\nk1:"+keyA)}
	if c.origins, err = parseOrigins(""); err != nil {
		t.Fatal(err)
	}
	c.codeFiles, c.imageFiles = codeFiles, imageFiles
	change(&c)
	logs := &lockedBuffer{}
	h, err := newHandler(context.Background(), c, slog.New(slog.NewJSONHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// As the server calls it: before the context of New ends.
		if err := h.Shutdown(context.Background()); err != nil {
			t.Errorf("shutting down: %v", err)
		}
	})
	return &bundle{handler: h, t: t, logs: logs, started: time.Now()}
}

func (b *bundle) probe() { b.gate.try(context.Background(), b.capture.appender.probe) }

// jar is a client's cookies.
type jar map[string]string

func (b *bundle) send(method, target, body string, j jar, header map[string]string) *httptest.ResponseRecorder {
	b.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for name, value := range j {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	for _, cookie := range w.Result().Cookies() {
		if j != nil {
			j[cookie.Name] = cookie.Value
		}
	}
	return w
}

// voter is a jar with a token in it.
func (b *bundle) voter() jar {
	b.t.Helper()
	j := jar{}
	b.send("GET", "/", "", j, nil)
	if j["waggle"] == "" {
		b.t.Fatal("GET gave no token")
	}
	return j
}

func (b *bundle) json(body string, j jar) (int, map[string]any) {
	b.t.Helper()
	w := b.send("POST", "/", body, j, map[string]string{"Content-Type": "application/json"})
	var reply map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil {
		b.t.Fatalf("reply %q: %v", w.Body, err)
	}
	return w.Code, reply
}

func (b *bundle) tokenOf(j jar) token {
	b.t.Helper()
	t, err := b.keys.readToken(j["waggle"], time.Now())
	if err != nil {
		b.t.Fatalf("token %q: %v", j["waggle"], err)
	}
	return t
}

var entryPattern = regexp.MustCompile(`(?m)^(\d+-\d+)\np\n(\d+)\nv\n(\S+)\nc\n(\d+)\ns\n(\d+)\nt\n(\d+)$`)

// stored lists the votes of the stream: id, poll, voter, choice, sequence, time.
func (b *bundle) stored() [][]string {
	b.t.Helper()
	found := entryPattern.FindAllStringSubmatch(b.redis.Do("XRANGE", stream, "-", "+"), -1)
	for i := range found {
		found[i] = found[i][1:]
	}
	return found
}

var browser = map[string]string{"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Site": "same-origin"}

func with(base map[string]string, more ...string) map[string]string {
	out := map[string]string{}
	for name, value := range base {
		out[name] = value
	}
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}
