package http2

import (
	"golang.org/x/net/http2/hpack"

	"waggle/provider/gateway/http1"
)

// Response heads are encoded without HPACK's dynamic table, as proxies do. Most of their values differ between
// responses, and an encoder without state needs no lock and no strings.

// shutTable sets the size of the encoder's dynamic table to 0 (RFC 7541 §6.3).
const shutTable = 0x20

// staticNames are the field names of HPACK's static table (RFC 7541, appendix A) with their lowest indices.
var staticNames = readStaticTable()

func readStaticTable() map[string]byte {
	names := make(map[string]byte)
	d := hpack.NewDecoder(0, nil)
	for i := byte(61); i > 0; i-- {
		fields, err := d.DecodeFull([]byte{0x80 | i})
		if err != nil {
			panic(err) // the table is fixed
		}
		names[fields[0].Name] = i
	}
	return names
}

// appendStatus appends the pseudo-header field of a status.
func appendStatus(b []byte, status int) []byte {
	switch status {
	case 200:
		return append(b, 0x88)
	case 204:
		return append(b, 0x89)
	case 304:
		return append(b, 0x8b)
	case 404:
		return append(b, 0x8d)
	case 500:
		return append(b, 0x8e)
	}
	return append(b, 0x08, 3, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10))
}

// appendFields appends the fields that are not dropped.
func appendFields(b []byte, f *http1.Fields) []byte {
	fields := f.All()
	for i := range fields {
		if h := &fields[i]; !h.Drop {
			b = appendField(b, f.Name(h), f.Value(h))
		}
	}
	return b
}

// appendField appends one as a literal that is not indexed, with its name in lower case.
func appendField(b, name, value []byte) []byte {
	var space [64]byte
	lower := space[:0]
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		lower = append(lower, c)
	}
	kind := byte(0)
	if string(lower) == "set-cookie" {
		kind = 0x10 // never to be indexed, by nobody on the way
	}
	if i, ok := staticNames[string(lower)]; ok {
		b = appendInteger(b, kind, 15, int(i))
	} else {
		b = append(b, kind)
		b = appendInteger(b, 0, 127, len(lower))
		b = append(b, lower...)
	}
	b = appendInteger(b, 0, 127, len(value))
	return append(b, value...)
}

// appendInteger appends n behind the bits of kind, with most as the largest value that fits beside them (RFC 7541 §5.1).
func appendInteger(b []byte, kind byte, most, n int) []byte {
	if n < most {
		return append(b, kind|byte(n))
	}
	b = append(b, kind|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, 0x80|byte(n))
	}
	return append(b, byte(n))
}
