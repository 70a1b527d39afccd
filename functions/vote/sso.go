package vote

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// keysEvery is how often the provider's keys are fetched; a key that was taken out is refused after that.
	keysEvery = 5 * time.Minute
	// keysUnknownEvery bounds the fetches that tokens with unknown keys cause.
	keysUnknownEvery = 10 * time.Second
	// keysLast is how long the last keys are used while the provider is away.
	keysLast = 24 * time.Hour
	// keysTimeout and maxKeySet bound one fetch.
	keysTimeout = 3 * time.Second
	maxKeySet   = 1 << 20
	// maxJWT bounds the work on a hostile token.
	maxJWT = 8 << 10
	// leeway is how far the provider's clock may be off.
	leeway = time.Minute
	// minRSABits is the least of RFC 7518, section 3.3.
	minRSABits = 2048
)

// login checks the tokens of one OpenID Connect provider. They are JWT (RFC 7519), signed by a key of its set (RFC
// 7517), by one of the algorithms that the poll lists. It is safe for concurrent use.
type login struct {
	sso        *sso
	algorithms []jose.SignatureAlgorithm
	client     *http.Client
	logger     *slog.Logger
	now        func() time.Time

	// mu guards what is below, and lets one fetch run at a time.
	mu      sync.Mutex
	keys    *jose.JSONWebKeySet
	fetched time.Time
	tried   time.Time
}

func newLogin(s *sso, logger *slog.Logger, now func() time.Time) *login {
	l := &login{sso: s, logger: logger, now: now, client: &http.Client{
		Timeout: keysTimeout, Transport: http.DefaultTransport.(*http.Transport).Clone(),
		// A redirection could lead away from TLS.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for _, a := range s.Algorithms {
		l.algorithms = append(l.algorithms, jose.SignatureAlgorithm(a))
	}
	return l
}

// run fetches the keys at once and then regularly, until ctx ends.
func (l *login) run(ctx context.Context) {
	tick := time.NewTicker(keysEvery)
	defer tick.Stop()
	defer l.client.CloseIdleConnections()
	for {
		l.mu.Lock()
		l.fetch(ctx)
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// fetch needs the lock. When it fails, the keys stay.
func (l *login) fetch(ctx context.Context) {
	l.tried = l.now()
	keys, err := l.download(ctx)
	if err != nil {
		if ctx.Err() == nil {
			l.logger.Info("keys of the sign-in provider not read", "jwks", l.sso.JWKS, "error", err)
		}
		return
	}
	l.keys, l.fetched = keys, l.tried
}

func (l *login) download(ctx context.Context) (*jose.JSONWebKeySet, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.sso.JWKS, nil)
	if err != nil {
		return nil, fmt.Errorf("preparing the request: %w", err)
	}
	answer, err := l.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetching: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching: status %d", answer.StatusCode)
	}
	var keys jose.JSONWebKeySet
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxKeySet)).Decode(&keys); err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	return &keys, nil
}

// errKeysAway: no key of the provider was ever read, or the last reading is too long ago.
var errKeysAway = errors.New("the keys of the sign-in provider cannot be read")

// key finds the key of a token. It fetches the keys again for a kid that it does not know, but not often.
func (l *login) key(ctx context.Context, kid string) (any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.find(kid)
	if found == nil && l.now().Sub(l.tried) >= keysUnknownEvery {
		l.fetch(ctx)
		found = l.find(kid)
	}
	if l.keys == nil || l.now().Sub(l.fetched) > keysLast {
		return nil, errKeysAway
	}
	return found, nil
}

// find needs the lock. It returns public keys of RSA and EC alone: a symmetric key in the set is not secret.
func (l *login) find(kid string) any {
	if l.keys == nil {
		return nil
	}
	for _, k := range l.keys.Key(kid) {
		switch key := k.Key.(type) {
		case *rsa.PublicKey:
			if key.N.BitLen() >= minRSABits {
				return key
			}
		case *ecdsa.PublicKey:
			return key
		}
	}
	return nil
}

// subject returns who signed in, by the first bearer token of the request (RFC 6750) that is valid.
func (l *login) subject(v *visit) (string, *problem) {
	problem := newProblem(http.StatusUnauthorized, "no_login")
	for _, line := range v.r.Header["Authorization"] {
		scheme, text, _ := strings.Cut(line, " ")
		if text = strings.TrimSpace(text); text == "" || !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		subject, reason, err := l.verify(v.r.Context(), text, v.now)
		switch {
		case err != nil:
			return "", newProblem(http.StatusServiceUnavailable, "try_again")
		case reason == "":
			return subject, nil
		}
		problem = newProblem(http.StatusForbidden, "bad_login", reason)
	}
	return "", problem
}

// verify returns the subject of a token, or why the token is not valid, or errKeysAway.
func (l *login) verify(ctx context.Context, text string, now time.Time) (subject, reason string, err error) {
	if len(text) > maxJWT {
		return "", "the token is too long", nil
	}
	token, err := jwt.ParseSigned(text, l.algorithms)
	if err != nil || len(token.Headers) != 1 {
		return "", "the token is malformed, or its algorithm is not allowed", nil //nolint:nilerr // what is wrong with a token is a reason, and no error of ours
	}
	key, err := l.key(ctx, token.Headers[0].KeyID)
	if err != nil {
		return "", "", err
	}
	if key == nil {
		return "", "the token's key is not one of the provider's", nil
	}
	var claims jwt.Claims
	if token.Claims(key, &claims) != nil {
		return "", "the token's signature is not valid", nil //nolint:nilerr // the same
	}
	err = claims.ValidateWithLeeway(jwt.Expected{Issuer: l.sso.Issuer, AnyAudience: jwt.Audience{l.sso.Audience}, Time: now}, leeway)
	switch {
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return "", "the token is by another issuer", nil
	case errors.Is(err, jwt.ErrInvalidAudience):
		return "", "the token is for another audience", nil
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return "", "the token is not valid yet", nil
	case errors.Is(err, jwt.ErrExpired), claims.Expiry == nil:
		return "", "the token has expired, or never does", nil
	case err != nil:
		return "", "the token's claims are not valid", nil //nolint:nilerr // what is wrong with a token is a reason, and no error of ours
	case claims.Subject == "":
		return "", "the token has no subject", nil
	}
	return claims.Subject, "", nil
}
