package vote

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the README tells the operator to put into each proxy. The place is a path prefix or a host name of its own.
var proxies = map[string]struct{ binary, config string }{
	"nginx": {"nginx", `daemon off; master_process off; pid DIR/pid; error_log stderr; events {}
http {
	access_log off; client_body_temp_path DIR/a; proxy_temp_path DIR/b; fastcgi_temp_path DIR/c; uwsgi_temp_path DIR/d; scgi_temp_path DIR/e;
	proxy_set_header Host $http_host;
	proxy_set_header X-Forwarded-Proto $scheme;
	server { listen LISTEN; server_name town.example; location /polls/ { proxy_pass http://GATEWAY/; } }
	server { listen LISTEN; server_name vote.example; location / { proxy_pass http://GATEWAY/function/vote/; } }
	server { listen LISTEN; server_name results.example; location / { proxy_pass http://GATEWAY/function/results/; } }
}`},
	"haproxy": {"haproxy", `defaults
	mode http
	timeout client 10s
	timeout server 10s
	timeout connect 1s
frontend public
	bind LISTEN
	http-request set-header X-Forwarded-Proto https if { ssl_fc }
	http-request set-header X-Forwarded-Proto http unless { ssl_fc }
	http-request replace-path /polls/(.*) /\1 if { hdr(host),field(1,:) town.example }
	http-request replace-path /(.*) /function/vote/\1 if { hdr(host),field(1,:) vote.example }
	http-request replace-path /(.*) /function/results/\1 if { hdr(host),field(1,:) results.example }
	default_backend gateway
backend gateway
	server one GATEWAY
`},
	"caddy": {"caddy", `{
	admin off
	auto_https off
	storage file_system DIR
}
http://town.example:PORT {
	handle_path /polls/* {
		reverse_proxy GATEWAY
	}
}
http://vote.example:PORT {
	rewrite * /function/vote{uri}
	reverse_proxy GATEWAY
}
http://results.example:PORT {
	rewrite * /function/results{uri}
	reverse_proxy GATEWAY
}
`},
}

func TestBehindRealProxies(t *testing.T) {
	t.Parallel()
	for name, proxy := range proxies {
		for place, test := range map[string]struct{ ballot, results string }{
			"prefix":   {"http://town.example:PORT/polls/function/vote", "/polls/function/results"},
			"own host": {"http://vote.example:PORT/", "http://results.example:PORT/"},
		} {
			t.Run(name+" "+place, func(t *testing.T) {
				t.Parallel()
				listen := freeAddress(t)
				_, port, _ := net.SplitHostPort(listen)
				b := setup(t, func(c *config) { c.resultsURL = strings.Replace(test.results, "PORT", port, 1) })
				mux := http.NewServeMux()
				mux.Handle("/function/vote/", http.StripPrefix("/function/vote", b))
				mux.Handle("/function/vote", http.StripPrefix("/function/vote", b))
				mux.HandleFunc("/function/results/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the count") })
				mux.HandleFunc("/function/results", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the count") })
				gateway := httptest.NewServer(mux)
				t.Cleanup(gateway.Close)
				startProxy(t, proxy.binary, proxy.config, listen, gateway.Listener.Addr().String())
				votesThrough(t, listen, strings.Replace(test.ballot, "PORT", port, 1))
				if stored := b.stored(); len(stored) != 1 {
					t.Errorf("stored %v", stored)
				}
			})
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startProxy returns once the proxy accepts connections, and ends it with the test.
func startProxy(t *testing.T, binary, config, listen, gateway string) {
	t.Helper()
	path, err := exec.LookPath(binary)
	if err != nil {
		path = "/usr/sbin/" + binary
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "conf")
	_, port, _ := net.SplitHostPort(listen)
	config = strings.NewReplacer("DIR", dir, "LISTEN", listen, "PORT", port, "GATEWAY", gateway).Replace(config)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	args := map[string][]string{"nginx": {"-p", dir, "-c", file}, "haproxy": {"-q", "-f", file},
		"caddy": {"run", "--adapter", "caddyfile", "--config", file}}[binary]
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir) // Caddy keeps its configuration
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s (apt-get install %s): %v", binary, binary, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed by cancel, or refused its configuration: the loop below tells
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	for {
		if c, err := net.Dial("tcp", listen); err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", binary, output.String())
		default:
		}
	}
}

var resultsLink = regexp.MustCompile(`<a href="([^"?][^"]*)">`)

// votesThrough votes as a browser does: with its cookies, with the Origin of the page, along the page's own links.
func votesThrough(t *testing.T, listen, ballot string) {
	t.Helper()
	cookies, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listen)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Jar: cookies, Transport: transport}
	at, err := url.Parse(ballot + "?poll=pets")
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, body string) string {
		t.Helper()
		r, err := http.NewRequest(method, at.String(), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/html")
		if method == http.MethodPost {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Origin", at.Scheme+"://"+at.Host)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != 200 {
			t.Fatalf("%s %s = %d %s, %v", method, at, response.StatusCode, text, err)
		}
		at = response.Request.URL
		return string(text)
	}
	page := do("POST", press(t, do("GET", ""), "cats"))
	if !strings.Contains(page, ">Cats</strong>") {
		t.Errorf("after the vote:\n%s", page)
	}
	link := resultsLink.FindStringSubmatch(page)
	if link == nil {
		t.Fatalf("no link to the results:\n%s", page)
	}
	to, err := at.Parse(link[1])
	if err != nil {
		t.Fatal(err)
	}
	at = to
	if count := do("GET", ""); count != "the count" {
		t.Errorf("%s leads to %q", to, count)
	}
}
