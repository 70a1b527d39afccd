package vote

import (
	"encoding/base64"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var someTime = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func TestTokensThatAreNotOurs(t *testing.T) {
	t.Parallel()
	k := testKeys(t, "poll:"+keyP+"\nk2:"+keyB+"\nk1:"+keyA)
	good := token{voter: newVoter(), seq: 5, exp: someTime.Unix() + 60}
	text := k.signToken(good)
	parts := strings.Split(text, ".")
	without := func(i int, value string) string {
		changed := append([]string(nil), parts...)
		changed[i] = value
		return strings.Join(changed, ".")
	}
	resigned := func(signed string) string { return string(k.byID["k2"].cookie.sign([]byte(signed), 0)) }
	base := "v1." + good.voter + ".5." + strconv.FormatInt(good.exp, 10)
	signature, _ := base64.RawURLEncoding.DecodeString(parts[5])
	tests := map[string]string{
		"empty":                            "",
		"no dots":                          "v1",
		"other voter":                      without(1, newVoter()),
		"higher sequence":                  without(2, "6"),
		"later expiry":                     without(3, strconv.FormatInt(good.exp+1, 10)),
		"other key id that exists":         without(4, "k1"),
		"other key id that does not":       without(4, "k9"),
		"the key id poll":                  without(4, "poll"),
		"no signature":                     strings.Join(parts[:5], "."),
		"empty signature":                  without(5, ""),
		"short signature":                  without(5, parts[5][:42]),
		"long signature":                   text + "A",
		"padded signature":                 text + "=",
		"signature in the other alphabet":  without(5, base64.RawStdEncoding.EncodeToString(append([]byte{0xfb, 0xff}, signature[2:]...))),
		"non-canonical last character":     without(5, parts[5][:42]+string(parts[5][42]+1)),
		"signed with the receipt key":      string(k.signing.receipt.sign([]byte(base+".k2"), 0)),
		"signed with the form key":         string(k.signing.form.sign([]byte(base+".k2"), 0)),
		"signed with the poll key":         string(newMAC(k.poll).sign([]byte(base+".k2"), 0)),
		"signed, of another version":       resigned(strings.Replace(base, "v1.", "v2.", 1) + ".k2"),
		"signed, with a field more":        resigned(base + ".x.k2"),
		"signed, with a field less":        resigned("v1." + good.voter + ".5.k2"),
		"signed, with a zero sequence":     resigned("v1." + good.voter + ".0." + parts[3] + ".k2"),
		"signed, with a leading zero":      resigned("v1." + good.voter + ".05." + parts[3] + ".k2"),
		"signed, with a plus":              resigned("v1." + good.voter + ".+5." + parts[3] + ".k2"),
		"signed, with a negative sequence": resigned("v1." + good.voter + ".-5." + parts[3] + ".k2"),
		"signed, with a huge sequence":     resigned("v1." + good.voter + ".9223372036854775807." + parts[3] + ".k2"),
		"signed, with a short voter":       resigned("v1.abc.5." + parts[3] + ".k2"),
		"expired":                          k.signToken(token{voter: good.voter, seq: 5, exp: someTime.Unix()}),
		"a receipt":                        k.signReceipt(receipt{poll: 1, voter: "v", seq: 5, incarnation: "i", entry: "1-1"}, good.voter, 1),
		"very long":                        strings.Repeat("v1.", 1000),
	}
	for name, forged := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := k.readToken(forged, someTime); err == nil {
				t.Errorf("accepted %q as %+v", forged, got)
			}
		})
	}
	if got, err := k.readToken(text, someTime); err != nil || got != good {
		t.Errorf("the good token reads as %+v, %v", got, err)
	}
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	before := testKeys(t, "poll:"+keyP+"\nk1:"+keyA)
	during := testKeys(t, "k2:"+keyB+"\nk1:"+keyA+"\npoll:"+keyP)
	after := testKeys(t, "poll:"+keyP+"\nk2:"+keyB)
	old := before.signToken(newToken(someTime))
	if _, err := during.readToken(old, someTime); err != nil {
		t.Errorf("a token of the older key during the rotation: %v", err)
	}
	if fresh := during.signToken(newToken(someTime)); !strings.Contains(fresh, ".k2.") {
		t.Errorf("the first key does not sign: %s", fresh)
	}
	if _, err := after.readToken(old, someTime); err == nil {
		t.Error("a token of a removed key is accepted")
	}
	if before.pseudonyms(1).of([]byte("voter")) != after.pseudonyms(1).of([]byte("voter")) {
		t.Error("the pseudonym changed with the signing keys: the voter could vote twice")
	}
	if before.pseudonyms(1).of([]byte("voter")) == before.pseudonyms(2).of([]byte("voter")) {
		t.Error("the same pseudonym in two polls")
	}
}

func TestTokensReceiptsAndNoncesRoundTrip(t *testing.T) {
	t.Parallel()
	k := testKeys(t, "poll:"+keyP+"\nk1:"+keyA)
	polls, err := parsePolls([]byte(pollFile))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		want := token{voter: newVoter(), seq: rapid.Int64Range(1, maxSeq).Draw(t, "seq"), exp: someTime.Unix() + rapid.Int64Range(1, 1<<33).Draw(t, "exp")}
		if got, err := k.readToken(k.signToken(want), someTime); err != nil || got != want {
			t.Fatalf("token %+v reads as %+v, %v", want, got, err)
		}
		p := &polls[0]
		chosen := &p.Options[rapid.IntRange(0, 1).Draw(t, "option")]
		place := receipt{poll: p.ID, voter: "c29tZWJvZHlzcHNldWRvbg", seq: want.seq, incarnation: "a5f0", entry: "1795361960335-12"}
		receipt := k.signReceipt(place, want.voter, chosen.ID)
		if got, signer, ok := k.readReceipt(receipt); !ok || got.poll != place.poll || got.voter != place.voter || got.seq != want.seq ||
			got.incarnation != place.incarnation || got.entry != place.entry || got.tag != string(signer.appendTag(nil, want.voter, p.ID, chosen.ID, want.seq)) {
			t.Fatalf("receipt of %s reads as %+v", chosen.Slug, got)
		}
		nonce := k.nonce(want.voter, p.ID, want.seq)
		if !k.nonceValid(nonce, want.voter, p.ID, want.seq) {
			t.Fatal("a nonce is not valid")
		}
		if k.nonceValid(nonce, newVoter(), p.ID, want.seq) || k.nonceValid(nonce, want.voter, p.ID, want.seq+1) || k.nonceValid(nonce, want.voter, p.ID+1, want.seq) {
			t.Fatal("a nonce is valid for another voter, sequence or poll")
		}
	})
}

func TestVoterKeys(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"complete":           {"# rotate yearly\n\npoll:" + keyP + "\r\nk1:" + keyA + "\n", ""},
		"empty":              {"", "poll:<hex>"},
		"no signing key":     {"poll:" + keyP, "<kid>:<hex>"},
		"no poll key":        {"k1:" + keyA, "poll:<hex>"},
		"two poll keys":      {"poll:" + keyP + "\npoll:" + keyP + "\nk1:" + keyA, "line 2"},
		"one kid twice":      {"poll:" + keyP + "\nk1:" + keyA + "\nk1:" + keyB, "line 3"},
		"no colon":           {"poll " + keyP, "line 1"},
		"short key":          {"poll:" + keyP[:62] + "\nk1:" + keyA, "64 to 128"},
		"long key":           {"poll:" + keyP + "\nk1:" + strings.Repeat("aa", 65), "64 to 128"},
		"not hex":            {"poll:" + strings.Repeat("zz", 32), "64 to 128"},
		"kid with a dot":     {"poll:" + keyP + "\nk.1:" + keyA, "line 2"},
		"kid in upper case":  {"poll:" + keyP + "\nK1:" + keyA, "line 2"},
		"kid too long":       {"poll:" + keyP + "\n" + strings.Repeat("k", 17) + ":" + keyA, "line 2"},
		"more than are kept": {"poll:" + keyP + "\n1:" + keyA + "\n2:" + keyA + "\n3:" + keyA + "\n4:" + keyA + "\n5:" + keyA + "\n6:" + keyA + "\n7:" + keyA + "\n8:" + keyA + "\n9:" + keyA, "at most 8"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseKeys(test.text)
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), keyA[:16]) {
				t.Errorf("the error tells a key: %v", err)
			}
		})
	}
}

func FuzzReadToken(f *testing.F) {
	k, err := parseKeys("poll:" + keyP + "\nk1:" + keyA)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.signToken(newToken(someTime)))
	f.Add("v1.....")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := k.readToken(text, someTime)
		if err == nil && k.signToken(got) != text {
			t.Errorf("%q was accepted and is not what signing gives", text)
		}
		k.readReceipt(text)
		k.nonceValid(text, newVoter(), 1, 1)
	})
}

func FuzzVoterKeys(f *testing.F) {
	f.Add("poll:" + keyP + "\nk1:" + keyA)
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := parseKeys(text); err == nil && (k.signing == nil || len(k.poll) < minKeyBytes) {
			t.Errorf("%q was accepted without its keys", text)
		}
	})
}
