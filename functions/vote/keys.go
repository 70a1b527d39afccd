package vote

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// keys is the secret voter-keys, one key per line, and what is derived from it:
//
//	# a comment
//	poll:<64 to 128 hex digits>    exactly one; makes the pseudonyms
//	k2:<64 to 128 hex digits>      the first of the others signs
//	k1:<64 to 128 hex digits>      all of them verify
//
// A signing key is rotated in two deployments: the first adds the new line at the end, the second moves it up. With
// one deployment, replicas that are not updated yet would not know the new key's tokens. A voter who meets one of
// them would get a second identity and could count twice. For the same reason a line is removed only when no open
// poll was voted in with its tokens.
//
// A kid is 1 to 16 of a-z and 0-9. The poll key must never change while a poll is open: a voter's pseudonym would
// change with it, and the voter could vote twice. Destroying it anonymises what was counted.
//
// Each use has its own key, HMAC-SHA256(line's key, "waggle/v1/<use>"), so that a signature made for one purpose
// is worthless for another. Poll n's pseudonym key is HMAC-SHA256(poll key, "waggle/v1/poll/<n>"): without it,
// nobody can tell that two polls' voters are one person.
type keys struct {
	signing *signer
	byID    map[string]*signer
	poll    []byte
}

const (
	minKeyBytes, maxKeyBytes = 32, 64
	maxSigningKeys           = 8
)

var kidPattern = regexp.MustCompile(`^[a-z0-9]{1,16}$`)

func parseKeys(text string) (*keys, error) {
	k := &keys{byID: map[string]*signer{}}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := k.add(line); err != nil {
			// The line itself is secret and stays out of the message.
			return nil, fmt.Errorf("secret voter-keys: line %d: %w", i+1, err)
		}
	}
	if k.poll == nil {
		return nil, errors.New("secret voter-keys: no line poll:<hex>: exactly one is needed")
	}
	if k.signing == nil {
		return nil, errors.New("secret voter-keys: no line <kid>:<hex> beside poll: the first one signs")
	}
	return k, nil
}

func (k *keys) add(line string) error {
	kid, digits, found := strings.Cut(line, ":")
	if !found || !kidPattern.MatchString(kid) {
		return errors.New("must be kid:hex, where kid is poll or 1 to 16 of a-z and 0-9")
	}
	key, err := hex.DecodeString(digits)
	if err != nil || len(key) < minKeyBytes || len(key) > maxKeyBytes {
		return fmt.Errorf("key %s: must be %d to %d hex digits", kid, 2*minKeyBytes, 2*maxKeyBytes)
	}
	if kid == "poll" {
		if k.poll != nil {
			return errors.New("key poll: a second one: exactly one is legal")
		}
		k.poll = key
		return nil
	}
	if k.byID[kid] != nil || len(k.byID) == maxSigningKeys {
		return fmt.Errorf("key %s: kids must be unique, and at most %d", kid, maxSigningKeys)
	}
	s := &signer{kid: kid, cookie: newMAC(derive(key, "cookie")), form: newMAC(derive(key, "form")), receipt: newMAC(derive(key, "receipt"))}
	k.byID[kid] = s
	if k.signing == nil {
		k.signing = s
	}
	return nil
}

// pseudonyms returns the keyed hash that makes poll id's pseudonyms.
func (k *keys) pseudonyms(id int32) *mac {
	return newMAC(derive(k.poll, "poll/"+strconv.Itoa(int(id))))
}

func derive(key []byte, use string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("waggle/v1/" + use))
	return h.Sum(nil)
}

// signer is one kid's keys.
type signer struct {
	kid                   string
	cookie, form, receipt *mac
}

// mac is HMAC-SHA256 under one key. It is safe for concurrent use; keyed states are pooled, because setting one up
// costs more than hashing a ballot.
type mac struct{ pool sync.Pool }

func newMAC(key []byte) *mac {
	return &mac{pool: sync.Pool{New: func() any { return &macState{hash: hmac.New(sha256.New, key)} }}}
}

type macState struct {
	hash hash.Hash
	sum  [sha256.Size]byte
	// message is a copy of what is hashed: through the interface the compiler would have the caller's escape to the heap.
	message []byte
}

// of returns the HMAC of message.
func (m *mac) of(message []byte) (sum [sha256.Size]byte) {
	s := m.pool.Get().(*macState)
	s.message = append(s.message[:0], message...)
	return m.finish(s)
}

// ofText is of for a string.
func (m *mac) ofText(message string) (sum [sha256.Size]byte) {
	s := m.pool.Get().(*macState)
	s.message = append(s.message[:0], message...)
	return m.finish(s)
}

func (m *mac) finish(s *macState) (sum [sha256.Size]byte) {
	s.hash.Reset()
	s.hash.Write(s.message)
	s.hash.Sum(s.sum[:0])
	sum = s.sum
	m.pool.Put(s)
	return sum
}

// sign appends "." and the HMAC of text[from:] to text.
func (m *mac) sign(text []byte, from int) []byte {
	sum := m.of(text[from:])
	text = append(text, '.')
	return base64.RawURLEncoding.AppendEncode(text, sum[:])
}

// verify tells in constant time whether signature is text's, in the one encoding that sign produces.
func (m *mac) verify(text, signature string) bool { return encodes(signature, m.ofText(text)) }

// encodes tells in constant time whether signature is the one encoding of sum.
func encodes(signature string, sum [sha256.Size]byte) bool {
	var given [sha256.Size]byte
	if len(signature) != base64.RawURLEncoding.EncodedLen(len(given)) {
		return false
	}
	n, err := strictBase64.Decode(given[:], []byte(signature))
	return err == nil && n == len(given) && hmac.Equal(sum[:], given[:])
}

var strictBase64 = base64.RawURLEncoding.Strict()
