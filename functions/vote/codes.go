package vote

import (
	"bytes"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"strings"
)

// Ballot codes are made by `make codes`; only their hashes come here, sorted, as the file codes/<slug>.codes. The
// file is part of the binary, so the kernel keeps one copy of it per node and loads the pages that are read.
//
//go:embed codes
var codeFiles embed.FS

const (
	// maxCodes bounds the binary: 64 MB of hashes.
	maxCodes = 4_000_000
	// perBucket codes share a bucket on average, so that a look-up reads a few neighbours, however many codes there are.
	perBucket = 8
)

// codeList are the hashes of one poll's codes. It is safe for concurrent use; a nil list has no code.
type codeList struct {
	hashes []byte
	// starts[i] is where the hashes begin whose first bits are i.
	starts []uint32
	shift  uint
}

// readCodes reads the list of a poll.
func readCodes(files fs.FS, slug string) (*codeList, error) {
	hashes, err := fs.ReadFile(files, "codes/"+slug+".codes")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("poll %s has mode once, and functions/vote/codes/%s.codes is not there: run make codes", slug, slug)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the codes of poll %s: %w", slug, err)
	}
	return newCodeList(hashes)
}

func newCodeList(hashes []byte) (*codeList, error) {
	n := len(hashes) / codeHashBytes
	if n == 0 || n > maxCodes || len(hashes)%codeHashBytes != 0 {
		return nil, fmt.Errorf("a list of codes of %d bytes: 1 to %d hashes of %d bytes are legal", len(hashes), maxCodes, codeHashBytes)
	}
	width := uint(bits.Len(uint(n / perBucket)))
	c := &codeList{hashes: hashes, starts: make([]uint32, 1<<width+1), shift: 64 - width}
	bucket := 0
	for i := range n {
		if i > 0 && bytes.Compare(c.hash(i-1), c.hash(i)) >= 0 {
			return nil, fmt.Errorf("a list of codes whose hash %d is not above the one before", i)
		}
		for ; bucket <= c.bucket(c.hash(i)); bucket++ {
			c.starts[bucket] = uint32(i)
		}
	}
	for ; bucket < len(c.starts); bucket++ {
		c.starts[bucket] = uint32(n)
	}
	return c, nil
}

func (c *codeList) hash(i int) []byte { return c.hashes[i*codeHashBytes : (i+1)*codeHashBytes] }

func (c *codeList) bucket(hash []byte) int { return int(binary.BigEndian.Uint64(hash) >> c.shift) }

// has reports whether a code, in its normal form, is one of the poll's.
func (c *codeList) has(poll int32, code string) bool {
	if c == nil {
		return false
	}
	hash := codeHash(poll, code)
	bucket := c.bucket(hash[:])
	for i := c.starts[bucket]; i < c.starts[bucket+1]; i++ {
		if bytes.Equal(c.hash(int(i)), hash[:]) {
			return true
		}
	}
	return false
}

// normalCode is the one form of a code as people type it. In Crockford's base 32 O is 0, and I and L are 1. Spaces
// and hyphens do not matter. ok tells whether it can be a code.
func normalCode(typed string) (code string, ok bool) {
	var out [codeLength]byte
	n := 0
	for _, r := range typed {
		if r >= 'a' && r <= 'z' {
			r -= 'a' - 'A'
		}
		switch r {
		case ' ', '-', '\t', '\u00a0', '\u2010', '\u2011', '\u2013':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if n == codeLength || !strings.ContainsRune(codeAlphabet, r) {
			return "", false
		}
		out[n] = byte(r)
		n++
	}
	return string(out[:n]), n == codeLength
}
