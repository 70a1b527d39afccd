package vote

import (
	"encoding/base32"
	"encoding/base64"
	"strconv"
	"strings"
)

// receipt is what a voter gets for a captured vote. As text, with fields joined by dots:
//
//	r2.<poll id>.<voter's pseudonym>.<sequence>.<incarnation>.<entry id>.<choice tag>.<kid>.<signature>
//
// Incarnation and entry name the vote's place: the key votes:inc of the Redis that took it, and the id in its stream.
// Both are empty in a note for the ballot itself that nobody confirmed the vote; the results know no such receipt.
// With the pseudonym they find the vote in Postgres, so the results can say whether it is counted, was replaced or waits.
// The tag is a keyed hash of cookie, poll, sequence and choice. So the receipt alone tells nobody what was voted, and
// is worth nothing to somebody who buys votes. With the voter's cookie the ballot can show the choice.
// The signature is the HMAC-SHA256 of all before it under the receipt key of the line kid in the secret voter-keys.
type receipt struct {
	poll        int32
	voter       string
	seq         int64
	incarnation string
	entry       string
	tag         string
}

const (
	maxReceipt = 280
	tagBytes   = 12
	// incarnationLength is that of a UUID.
	incarnationLength = 36
)

// signReceipt makes the text of a receipt. cookieVoter is the id in the voter's cookie; r needs no tag.
func (k *keys) signReceipt(r receipt, cookieVoter string, choice int16) string {
	return string(k.appendReceipt(make([]byte, 0, maxReceipt), r, cookieVoter, choice))
}

// appendReceipt appends the text of a receipt.
func (k *keys) appendReceipt(text []byte, r receipt, cookieVoter string, choice int16) []byte {
	s, from := k.signing, len(text)
	text = append(text, "r2."...)
	text = strconv.AppendInt(text, int64(r.poll), 10)
	text = append(text, '.')
	text = append(text, r.voter...)
	text = append(text, '.')
	text = strconv.AppendInt(text, r.seq, 10)
	text = append(text, '.')
	text = append(text, r.incarnation...)
	text = append(text, '.')
	text = append(text, r.entry...)
	text = append(text, '.')
	text = s.appendTag(text, cookieVoter, r.poll, choice, r.seq)
	text = append(text, '.')
	text = append(text, s.kid...)
	return s.receipt.sign(text, from)
}

func (s *signer) appendTag(out []byte, cookieVoter string, poll int32, choice int16, seq int64) []byte {
	text := append(appendNonce(make([]byte, 0, 64), cookieVoter, poll, seq), '.')
	sum := s.receipt.of(strconv.AppendInt(text, int64(choice), 10))
	return base64.RawURLEncoding.AppendEncode(out, sum[:tagBytes])
}

// readReceipt accepts exactly what signReceipt made under a key that is still listed.
func (k *keys) readReceipt(text string) (receipt, *signer, bool) {
	if len(text) > maxReceipt {
		return receipt{}, nil, false
	}
	signed, signature, kid, ok := splitSigned(text)
	if !ok {
		return receipt{}, nil, false
	}
	s := k.byID[kid]
	if s == nil || !s.receipt.verify(signed, signature) {
		return receipt{}, nil, false
	}
	var parts [8]string
	if !splitExactly(signed, parts[:]) || parts[0] != "r2" {
		return receipt{}, nil, false
	}
	poll, pollOK := decimal(parts[1], 1, 1<<31-1)
	seq, seqOK := decimal(parts[3], 1, maxSeq)
	if !pollOK || !seqOK {
		return receipt{}, nil, false
	}
	return receipt{poll: int32(poll), voter: parts[2], seq: seq, incarnation: parts[4], entry: parts[5], tag: parts[6]}, s, true
}

// spoken is an alphabet without letters that sound or look alike: Crockford's base 32.
var spoken = base32.NewEncoding(codeAlphabet).WithPadding(base32.NoPadding)

// reference is a receipt's short form for people, such as 7K3M-Q2ZD: 40 bits of its signature. It finds nothing by itself.
func reference(receipt string) string { return string(appendReference(nil, receipt)) }

// appendReference appends the reference of a receipt.
func appendReference(out []byte, receipt string) []byte {
	var encoded [8]byte
	var signature [6]byte
	if copy(encoded[:], receipt[strings.LastIndexByte(receipt, '.')+1:]) < len(encoded) {
		return out
	}
	if _, err := base64.RawURLEncoding.Decode(signature[:], encoded[:]); err != nil {
		return out
	}
	var text [9]byte
	spoken.Encode(text[1:], signature[:5])
	copy(text[:4], text[1:5])
	text[4] = '-'
	return append(out, text[:]...)
}
