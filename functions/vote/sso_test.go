package vote

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// provider is a sign-in provider's key set over HTTP. set may be changed; nil is a provider that is away.
type provider struct {
	*httptest.Server
	set   atomic.Pointer[jose.JSONWebKeySet]
	asked atomic.Int64
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		set := p.set.Load()
		if set == nil {
			http.Error(w, "away", http.StatusBadGateway)
			return
		}
		if err := json.NewEncoder(w).Encode(set); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) publish(keys ...jose.JSONWebKey) { p.set.Store(&jose.JSONWebKeySet{Keys: keys}) }

// signingKey is a key with the kid under which it is published.
type signingKey struct {
	kid       string
	algorithm jose.SignatureAlgorithm
	private   any
	public    any
}

func rsaKey(t *testing.T, kid string, bits int) signingKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{kid, jose.RS256, key, &key.PublicKey}
}

func ecKey(t *testing.T, kid string) signingKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{kid, jose.ES256, key, &key.PublicKey}
}

func (k signingKey) published() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.public, KeyID: k.kid, Use: "sig"}
}

func (k signingKey) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.algorithm, Key: jose.JSONWebKey{Key: k.private, KeyID: k.kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// claimsWith are good claims with changes; a nil value takes a claim out.
func claimsWith(now time.Time, changes map[string]any) map[string]any {
	claims := map[string]any{"iss": "https://id.example", "aud": "vote", "sub": "anna", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix()}
	for name, value := range changes {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func ssoPoll(p *provider) string {
	return `"mode":"sso","sso":{"issuer":"https://id.example","audience":"vote","jwks":"` + p.URL + `","algorithms":["RS256","ES256"],"login":"https://id.example/in"}`
}

func TestTokensOfTheProvider(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	good, ec, small := rsaKey(t, "k1", 2048), ecKey(t, "k2"), rsaKey(t, "small", 1024)
	secret := []byte(strings.Repeat("s", 32))
	symmetric := signingKey{"hmac", jose.HS256, secret, secret}
	confused := signingKey{"k1", jose.HS256, secret, nil}
	p.publish(good.published(), ec.published(), small.published(), symmetric.published())
	b := setup(t, func(c *config) { c.polls = onePoll(t, ssoPoll(p)) })
	now := time.Now()
	hour := func(h int) int64 { return now.Add(time.Duration(h) * time.Hour).Unix() }
	valid := good.token(t, claimsWith(now, nil))
	parts := strings.Split(valid, ".")
	tests := map[string]struct {
		header string
		want   int
	}{
		"RS256":                    {"Bearer " + valid, 200},
		"ES256":                    {"bearer " + ec.token(t, claimsWith(now, map[string]any{"aud": []string{"other", "vote"}})), 200},
		"none":                     {"", 401},
		"another scheme":           {"Basic YTpi", 401},
		"wrong audience":           {"Bearer " + good.token(t, claimsWith(now, map[string]any{"aud": "shop"})), 403},
		"no audience":              {"Bearer " + good.token(t, claimsWith(now, map[string]any{"aud": nil})), 403},
		"wrong issuer":             {"Bearer " + good.token(t, claimsWith(now, map[string]any{"iss": "https://evil.example"})), 403},
		"expired":                  {"Bearer " + good.token(t, claimsWith(now, map[string]any{"exp": hour(-1)})), 403},
		"never expires":            {"Bearer " + good.token(t, claimsWith(now, map[string]any{"exp": nil})), 403},
		"not yet valid":            {"Bearer " + good.token(t, claimsWith(now, map[string]any{"nbf": hour(1)})), 403},
		"issued in the future":     {"Bearer " + good.token(t, claimsWith(now, map[string]any{"iat": hour(1)})), 403},
		"no subject":               {"Bearer " + good.token(t, claimsWith(now, map[string]any{"sub": nil})), 403},
		"unknown kid":              {"Bearer " + rsaKey(t, "k9", 2048).token(t, claimsWith(now, nil)), 403},
		"a stranger's key":         {"Bearer " + rsaKey(t, "k1", 2048).token(t, claimsWith(now, nil)), 403},
		"HS256 of the key set":     {"Bearer " + symmetric.token(t, claimsWith(now, nil)), 403},
		"HS256 with the RSA kid":   {"Bearer " + confused.token(t, claimsWith(now, nil)), 403},
		"a short RSA key":          {"Bearer " + small.token(t, claimsWith(now, nil)), 403},
		"alg none":                 {"Bearer eyJhbGciOiJub25lIiwia2lkIjoiazEifQ." + parts[1] + ".", 403},
		"another payload":          {"Bearer " + parts[0] + "." + parts[1][:len(parts[1])-2] + "AA." + parts[2], 403},
		"no signature":             {"Bearer " + parts[0] + "." + parts[1] + ".", 403},
		"not a token":              {"Bearer x", 403},
		"a token of 9,000 letters": {"Bearer " + strings.Repeat("x", 9000), 403},
	}
	votes := 0
	for name, test := range tests {
		w := b.send("POST", "/", `{"choice":"anna"}`, b.voter(), map[string]string{"Content-Type": "application/json", "Authorization": test.header})
		if w.Code != test.want {
			t.Errorf("%s = %d %s, want %d", name, w.Code, w.Body, test.want)
		}
		if test.want == 200 {
			votes++
		}
		if (w.Header().Get("Www-Authenticate") != "") != (w.Code == 401) {
			t.Errorf("%s: WWW-Authenticate %q", name, w.Header().Get("Www-Authenticate"))
		}
	}
	stored := b.stored()
	if len(stored) != votes || stored[0][2] != stored[1][2] {
		t.Errorf("stored %v, want %d votes of one subject in two browsers", stored, votes)
	}
	twice := httptest.NewRequest("GET", "/?poll=pets", nil)
	twice.Header = http.Header{"Accept": {"text/html"}, "Authorization": {"Basic YTpi", "Bearer a.b.c", "Bearer " + valid}}
	w := httptest.NewRecorder()
	if b.ServeHTTP(w, twice); strings.Contains(w.Body.String(), `href="https://id.example/in"`) {
		t.Errorf("the first bearer token that is valid does not count:\n%s", w.Body)
	}
	page := b.send("GET", "/?poll=pets", "", jar{}, browser).Body.String()
	if strings.Contains(page, "<form") || !strings.Contains(page, `href="https://id.example/in"`) {
		t.Errorf("the page without a sign-in:\n%s", page)
	}
	if page := b.send("GET", "/?poll=pets", "", jar{}, with(browser, "Authorization", "Bearer "+valid)).Body.String(); !strings.Contains(page, "<form") {
		t.Errorf("the page with a sign-in:\n%s", page)
	}
}

// While the provider's keys cannot be read, nobody votes, and everybody is told to try again. A rotated key is taken when a
// token brings it.
func TestTheProviderIsAway(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	old, next := rsaKey(t, "old", 2048), ecKey(t, "new")
	b := setup(t, func(c *config) { c.polls = onePoll(t, ssoPoll(p)) })
	var late atomic.Int64
	b.papers["pets"].login.mu.Lock()
	b.papers["pets"].login.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	b.papers["pets"].login.mu.Unlock()
	vote := func(k signingKey) *httptest.ResponseRecorder {
		token := k.token(t, claimsWith(time.Now(), nil))
		return b.send("POST", "/", `{"choice":"anna"}`, b.voter(), map[string]string{"Content-Type": "application/json", "Authorization": "Bearer " + token})
	}
	votes := 0
	for _, step := range []struct {
		name string
		keys []jose.JSONWebKey
		by   signingKey
		want int
	}{
		{"away", nil, old, 503},
		{"there", []jose.JSONWebKey{old.published()}, old, 200},
		{"a key that it does not have", []jose.JSONWebKey{old.published()}, next, 403},
		{"rotated", []jose.JSONWebKey{next.published()}, next, 200},
		{"away again, with known keys", nil, next, 200},
	} {
		if p.set.Store(nil); step.keys != nil {
			p.publish(step.keys...)
		}
		late.Add(int64(keysUnknownEvery)) // so that an unknown key may ask
		w := vote(step.by)
		if w.Code != step.want || (w.Header().Get("Retry-After") != "") != (step.want == 503) {
			t.Errorf("%s: %d %v %s, want %d", step.name, w.Code, w.Header(), w.Body, step.want)
		}
		if step.want == 200 {
			votes++
		}
		if n := len(b.stored()); n != votes {
			t.Errorf("%s: %d votes stored, want %d", step.name, n, votes)
		}
	}
}

func TestTheProvidersKeysAreRefreshed(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	old, next := ecKey(t, "old"), ecKey(t, "new")
	var polls []poll = onePoll(t, ssoPoll(p))
	now := time.Now()
	l := newLogin(polls[0].SSO, slog.New(slog.DiscardHandler), func() time.Time { return now })
	t.Cleanup(l.client.CloseIdleConnections)
	check := func(when string, k signingKey, wantValid bool, wantErr error) {
		t.Helper()
		subject, reason, err := l.verify(context.Background(), k.token(t, claimsWith(now, nil)), now)
		if (subject == "anna") != wantValid || !errors.Is(err, wantErr) || (reason == "") != (wantValid || wantErr != nil) {
			t.Errorf("%s: %q, %q, %v", when, subject, reason, err)
		}
	}
	check("the provider is away from the start", old, false, errKeysAway)
	p.publish(old.published())
	check("within 10 s it is not asked again", old, false, errKeysAway)
	now = now.Add(keysUnknownEvery)
	check("it is back", old, true, nil)
	check("a key that it does not have yet", next, false, nil)
	p.publish(old.published(), next.published())
	now = now.Add(keysUnknownEvery)
	check("a rotation", next, true, nil)
	asked := p.asked.Load()
	for range 100 {
		check("a stranger's", ecKey(t, "stranger"), false, nil)
	}
	if n := p.asked.Load() - asked; n > 1 {
		t.Errorf("100 unknown keys asked the provider %d times", n)
	}
	p.set.Store(nil)
	now = now.Add(time.Hour)
	check("away for an hour", next, true, nil)
	now = now.Add(keysLast)
	check("away for a day", next, false, errKeysAway)
	p.publish(next.published())
	l.mu.Lock()
	l.fetch(context.Background())
	l.mu.Unlock()
	check("a key that was taken out", old, false, nil)
	check("the key that stayed", next, true, nil)
}

func FuzzJWT(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	l := &login{sso: &sso{Issuer: "https://id.example", Audience: "vote"}, algorithms: []jose.SignatureAlgorithm{jose.RS256, jose.ES256},
		now: func() time.Time { return now }, fetched: now, tried: now,
		keys: &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1"}}}}
	f.Add("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ.e30.")
	f.Add("eyJhbGciOiJFUzI1NiIsImtpZCI6ImsxIn0.e30.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		// Nobody has signed anything with this key.
		if subject, reason, err := l.verify(context.Background(), text, now); subject != "" || reason == "" && err == nil {
			t.Errorf("%q is a token of %q", text, subject)
		}
	})
}
