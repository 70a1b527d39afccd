package vote

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

func TestCodesAsPeopleTypeThem(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"0123-4567-89AB-CDEF": "0123456789ABCDEF", "o123 4567 89ab cdef": "0123456789ABCDEF", "OIL1-0000-0000-0000": "0111000000000000",
		" 0123‑4567–89AB\tCDEF ": "0123456789ABCDEF", "0123": "", "0123456789ABCDEF0": "", "0123456789ABCDEU": "", "": "", "０123456789ABCDEF": "",
	} {
		if got, ok := normalCode(typed); ok != (want != "") || ok && got != want {
			t.Errorf("%q is %q, %t; want %q", typed, got, ok, want)
		}
	}
}

func TestListsOfCodes(t *testing.T) {
	t.Parallel()
	a, b := codeHash(1, "0000000000000000"), codeHash(1, "1111111111111111")
	if string(a[:]) > string(b[:]) {
		a, b = b, a
	}
	for name, test := range map[string]struct {
		list string
		ok   bool
	}{
		"two": {string(a[:]) + string(b[:]), true}, "one": {string(a[:]), true}, "none": {"", false}, "half of one": {string(a[:8]), false},
		"not sorted": {string(b[:]) + string(a[:]), false}, "one twice": {string(a[:]) + string(a[:]), false},
	} {
		if _, err := newCodeList([]byte(test.list)); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := newCodeList(listOf("0000000000000000"))
	if err != nil || !list.has(1, "0000000000000000") || list.has(2, "0000000000000000") || list.has(1, "0000000000000001") || (*codeList)(nil).has(1, "0000000000000000") {
		t.Errorf("a list of one code, %v", err)
	}
}

// syntheticList has n random hashes, the last of which is that of the returned code.
func syntheticList(tb testing.TB, n int) (*codeList, string) {
	tb.Helper()
	const code = "0123456789ABCDEF"
	hashes := make([][codeHashBytes]byte, n)
	for i := range hashes {
		_, _ = rand.Read(hashes[i][:])
	}
	hashes[n-1] = codeHash(1, code)
	slices.SortFunc(hashes, func(a, b [codeHashBytes]byte) int { return strings.Compare(string(a[:]), string(b[:])) })
	flat := make([]byte, 0, n*codeHashBytes)
	for i := range hashes {
		flat = append(flat, hashes[i][:]...)
	}
	list, err := newCodeList(flat)
	if err != nil {
		tb.Fatal(err)
	}
	return list, code
}

// TestALookUpReadsAFewNeighbours: its cost does not grow with the number of codes.
func TestALookUpReadsAFewNeighbours(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 7, 1000, 1_000_000} {
		list, code := syntheticList(t, n)
		if !list.has(1, code) {
			t.Fatalf("a code of %d is not found", n)
		}
		longest := uint32(0)
		for i := range len(list.starts) - 1 {
			longest = max(longest, list.starts[i+1]-list.starts[i])
		}
		if longest > 8*perBucket {
			t.Errorf("of %d codes, %d share a bucket", n, longest)
		}
		for i := range n {
			bucket := list.bucket(list.hash(i))
			if uint32(i) < list.starts[bucket] || uint32(i) >= list.starts[bucket+1] {
				t.Fatalf("hash %d of %d is outside its bucket", i, n)
			}
		}
	}
}

func BenchmarkCodeLookUp(b *testing.B) {
	for name, n := range map[string]int{"1000": 1000, "1000000": 1_000_000} {
		b.Run(name, func(b *testing.B) {
			list, _ := syntheticList(b, n)
			code := []byte("0000000000000000")
			b.ReportAllocs()
			i := uint64(0)
			for b.Loop() {
				i++
				binary.BigEndian.PutUint64(code[8:], 0x3030303030303030+i%8)
				list.has(1, string(code))
			}
		})
	}
}

func FuzzCode(f *testing.F) {
	f.Add("0123-4567-89AB-CDEF")
	f.Fuzz(func(t *testing.T, typed string) {
		code, ok := normalCode(typed)
		if again, still := normalCode(code); ok && (!still || again != code || len(code) != codeLength) {
			t.Errorf("%q is %q, and that is %q", typed, code, again)
		}
	})
}

func FuzzNonce(f *testing.F) {
	k, err := parseKeys("poll:" + keyP + "\nk1:" + keyA)
	if err != nil {
		f.Fatal(err)
	}
	voter := newVoter()
	f.Add(k.nonce(voter, 1, 1))
	f.Add("k1.")
	f.Fuzz(func(t *testing.T, nonce string) {
		if k.nonceValid(nonce, voter, 1, 1) && nonce != k.nonce(voter, 1, 1) {
			t.Errorf("%q is valid and is not what signing gives", nonce)
		}
	})
}
