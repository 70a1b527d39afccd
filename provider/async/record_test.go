package async

import (
	"bytes"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waggle/provider/queued"
)

func TestRecordsComeBackByteForByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		raw := rapid.SliceOf(rapid.Byte())
		c := queued.Call{ID: "c", Address: "f", Function: "f.ns", Target: "/" + string(raw.Draw(rt, "target")), Header: raw.Draw(rt, "header"),
			Body: raw.Draw(rt, "body"), Callback: rapid.SampledFrom([]string{"", "http://h/x"}).Draw(rt, "callback"),
			Accepted: time.Unix(0, rapid.Int64().Draw(rt, "accepted"))}
		record, err := encodeCall(&c)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := decodeCall("c", record)
		if err != nil || got.Target != c.Target || !bytes.Equal(got.Header, c.Header) || !bytes.Equal(got.Body, c.Body) || got.Callback != c.Callback || !got.Accepted.Equal(c.Accepted) {
			rt.Fatalf("%+v came back as %+v, %v", c, got, err)
		}
		r := resultOf(&c, &answer{status: 200, header: http.Header{"A": {"b"}}, body: c.Body}, 1, 2)
		r.Callback = "http://h"
		if record, err = r.encode(); err != nil {
			rt.Fatal(err)
		}
		back, err := decodeResult(record)
		if err != nil || !reflect.DeepEqual(back.resultHead, r.resultHead) || !bytes.Equal(back.header, r.header) || !bytes.Equal(back.body, r.body) {
			rt.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}

func TestStatesAreShort(t *testing.T) {
	t.Parallel()
	text := state{Function: "f.ns", Phase: buried, Reason: strings.Repeat("é", 10_000)}.encode()
	got, err := decodeState(string(text))
	if err != nil || len(text) > 1000 || got.Phase != buried {
		t.Errorf("%d bytes: %+v, %v", len(text), got, err)
	}
}

func FuzzRecord(f *testing.F) {
	c := queued.Call{ID: "c", Address: "f", Function: "f.ns", Target: "/x", Header: []byte("A: b\r\n"), Body: []byte("body")}
	record, err := encodeCall(&c)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record)
	f.Add([]byte(`{"v":1,"address":"f","function":"f.ns","target":9223372036854775807,"header":1}` + "\n/x"))
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := decodeCall("c", raw)
		if err != nil {
			return
		}
		if !strings.HasPrefix(c.Target, "/") || len(c.Target)+len(c.Header)+len(c.Body) > len(raw) || c.Function == "" {
			t.Errorf("%q is read as %+v", raw, c)
		}
		parseHeader(c.Header)
		again, err := encodeCall(&c)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeCall("c", again); err != nil || fmt.Sprint(back) != fmt.Sprint(c) {
			t.Errorf("%+v comes back as %+v, %v", c, back, err)
		}
	})
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"v":1,"callback":"http://h","status":200,"header":6}` + "\nA: b\r\nbody"))
	f.Add([]byte(`{"v":1,"callback":"http://h","header":-1}` + "\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeResult(raw)
		if err == nil && (len(r.header)+len(r.body) > len(raw) || r.Callback == "") {
			t.Errorf("%q is read as %+v", raw, r)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(`{"fn":"f.ns","at":1,"phase":"invoke","tries":2}`)
	f.Add(`{"fn":"f.ns","phase":"dead","reason":"x","owed":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		st, err := decodeState(text)
		if err != nil {
			return
		}
		back, err := decodeState(string(st.encode()))
		if st.Reason, back.Reason = "", ""; err != nil || back != st { // a reason is cut short
			t.Errorf("%q is read as %+v, which comes back as %+v, %v", text, st, back, err)
		}
	})
}
