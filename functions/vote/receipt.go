package vote

import (
	"crypto/hmac"
	"encoding/base64"
	"strconv"
	"strings"
)

// receipt is what a voter gets for a captured vote:
// r1.<poll id>.<seq>.<stream entry id>.<replica>.<choice tag>.<kid>.<HMAC-SHA256 of all before it>.
// The tag is a keyed hash of voter, poll, sequence and choice: the receipt alone does not tell what was voted, so
// it is worth nothing to somebody who buys votes; together with the voter's cookie the page can show the choice.
type receipt struct {
	poll    int32
	seq     int64
	entry   string
	replica string
	tag     string
}

const (
	maxReceipt = 280
	maxReplica = 64
	tagBytes   = 12
)

// signReceipt makes the receipt of the vote that the stream stored as entry.
func (k *keys) signReceipt(voter string, poll int32, choice int16, seq int64, entry, replica string) string {
	text := make([]byte, 0, maxReceipt)
	text = append(text, "r1."...)
	text = strconv.AppendInt(text, int64(poll), 10)
	text = append(text, '.')
	text = strconv.AppendInt(text, seq, 10)
	text = append(text, '.')
	text = append(text, entry...)
	text = append(text, '.')
	text = append(text, replica...)
	text = append(text, '.')
	text = append(text, k.signing.tag(voter, poll, choice, seq)...)
	text = append(text, '.')
	text = append(text, k.signing.kid...)
	return string(k.signing.receipt.sign(text))
}

func (s *signer) tag(voter string, poll int32, choice int16, seq int64) string {
	text := append(nonceText(voter, poll, seq), '.')
	sum := s.receipt.of(strconv.AppendInt(text, int64(choice), 10))
	return base64.RawURLEncoding.EncodeToString(sum[:tagBytes])
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
	var parts [7]string
	if !splitExactly(signed, parts[:]) || parts[0] != "r1" {
		return receipt{}, nil, false
	}
	poll, pollOK := decimal(parts[1], 1, 1<<31-1)
	seq, seqOK := decimal(parts[2], 1, maxSeq)
	if !pollOK || !seqOK {
		return receipt{}, nil, false
	}
	return receipt{poll: int32(poll), seq: seq, entry: parts[3], replica: parts[4], tag: parts[5]}, s, true
}

// chosen finds the option that voter's receipt is for, or nil if the receipt is another's or of another poll.
func (k *keys) chosen(text, voter string, p *poll) *option {
	r, s, ok := k.readReceipt(text)
	if !ok || r.poll != p.ID {
		return nil
	}
	for i := range p.Options {
		if hmac.Equal([]byte(s.tag(voter, p.ID, p.Options[i].ID, r.seq)), []byte(r.tag)) {
			return &p.Options[i]
		}
	}
	return nil
}

// replicaName makes a hostname fit for a receipt.
func replicaName(hostname string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(hostname))
	return name[:min(len(name), maxReplica)]
}
