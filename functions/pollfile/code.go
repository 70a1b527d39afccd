package pollfile

import (
	"crypto/sha256"
	"encoding/binary"
)

// Ballot codes, of the poll mode once, are codeLength characters of codeAlphabet: Crockford's base 32. It lacks
// letters that look or sound like others. 16 characters of 5 bits are 80 bits: nobody guesses one of a million codes.
const (
	codeAlphabet  = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	codeLength    = 16
	codeHashBytes = 16
)

// codeHash is all that servers know of a code.
func codeHash(poll int32, code string) (hash [codeHashBytes]byte) {
	text := append(make([]byte, 0, 64), "waggle/v1/code/"...)
	text = binary.BigEndian.AppendUint32(text, uint32(poll))
	sum := sha256.Sum256(append(text, code...))
	copy(hash[:], sum[:])
	return hash
}
