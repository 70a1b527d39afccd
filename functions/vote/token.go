package vote

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// token is the cookie's content: v1.<voter uuid>.<seq>.<exp>.<kid>.<HMAC-SHA256 of all before it>. voter is the
// 36-character id. seq is the sequence of the voter's next vote, exp is in Unix seconds.
type token struct {
	voter string
	seq   int64
	exp   int64
}

const (
	// tokenLife is the longest that browsers keep a cookie.
	tokenLife = 400 * 24 * time.Hour
	// maxSeq leaves room in an int64 and is beyond anybody's patience.
	maxSeq = 1 << 40
	// maxToken bounds the work on a hostile cookie.
	maxToken = 160
)

var (
	errTokenForm    = errors.New("the token is malformed")
	errTokenForged  = errors.New("the token's signature is not ours")
	errTokenExpired = errors.New("the token has expired")
)

func newToken(now time.Time) token {
	return token{voter: newVoter(), seq: 1, exp: now.Add(tokenLife).Unix()}
}

// newVoter makes a random UUID, version 4 of RFC 9562. crypto/rand.Read never fails: it ends the process instead.
func newVoter() string {
	var id [16]byte
	_, _ = rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

func (k *keys) signToken(t token) string {
	return string(k.appendToken(make([]byte, 0, maxToken), t))
}

// appendToken appends the text of t, signed.
func (k *keys) appendToken(text []byte, t token) []byte {
	from := len(text)
	text = append(text, "v1."...)
	text = append(text, t.voter...)
	text = append(text, '.')
	text = strconv.AppendInt(text, t.seq, 10)
	text = append(text, '.')
	text = strconv.AppendInt(text, t.exp, 10)
	text = append(text, '.')
	text = append(text, k.signing.kid...)
	return k.signing.cookie.sign(text, from)
}

// readToken accepts exactly what signToken made under a key that is still listed, until it expires.
func (k *keys) readToken(text string, now time.Time) (token, error) {
	if len(text) > maxToken {
		return token{}, errTokenForm
	}
	signed, signature, kid, ok := splitSigned(text)
	if !ok {
		return token{}, errTokenForm
	}
	s := k.byID[kid]
	if s == nil || !s.cookie.verify(signed, signature) {
		return token{}, errTokenForged
	}
	var parts [5]string
	if !splitExactly(signed, parts[:]) || parts[0] != "v1" || len(parts[1]) != 36 {
		return token{}, errTokenForm
	}
	seq, seqOK := decimal(parts[2], 1, maxSeq)
	exp, expOK := decimal(parts[3], 1, 1<<40)
	if !seqOK || !expOK {
		return token{}, errTokenForm
	}
	if now.Unix() >= exp {
		return token{}, errTokenExpired
	}
	return token{voter: parts[1], seq: seq, exp: exp}, nil
}

// splitSigned takes the signature and the kid before it off a signed text.
func splitSigned(text string) (signed, signature, kid string, ok bool) {
	last := strings.LastIndexByte(text, '.')
	if last < 0 {
		return "", "", "", false
	}
	signed, signature = text[:last], text[last+1:]
	dot := strings.LastIndexByte(signed, '.')
	if dot < 0 {
		return "", "", "", false
	}
	return signed, signature, signed[dot+1:], true
}

// splitExactly fills parts with text's dot-separated fields and tells whether there were just as many.
func splitExactly(text string, parts []string) bool {
	for i := range parts[:len(parts)-1] {
		var found bool
		if parts[i], text, found = strings.Cut(text, "."); !found {
			return false
		}
	}
	parts[len(parts)-1] = text
	return !strings.Contains(text, ".")
}

// decimal reads a number written in the one canonical way: no sign, no leading zero, low to high.
func decimal(text string, low, high int64) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < low || n > high || text[0] == '+' || (text[0] == '0' && len(text) > 1) {
		return 0, false
	}
	return n, true
}

// nonce binds a form to the voter, the poll and the sequence it was rendered for. A page of another site cannot know
// it, so the sequence in the form can be trusted.
func (k *keys) nonce(voter string, poll int32, seq int64) string {
	sum := k.signing.form.of(appendNonce(make([]byte, 0, 64), voter, poll, seq))
	return k.signing.kid + "." + strictBase64.EncodeToString(sum[:])
}

func (k *keys) nonceValid(nonce, voter string, poll int32, seq int64) bool {
	kid, signature, found := strings.Cut(nonce, ".")
	s := k.byID[kid]
	return found && s != nil && encodes(signature, s.form.of(appendNonce(make([]byte, 0, 64), voter, poll, seq)))
}

// appendNonce appends what a nonce signs.
func appendNonce(text []byte, voter string, poll int32, seq int64) []byte {
	text = append(text, voter...)
	text = append(text, '.')
	text = strconv.AppendInt(text, int64(poll), 10)
	text = append(text, '.')
	return strconv.AppendInt(text, seq, 10)
}
