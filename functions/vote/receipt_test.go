package vote

import (
	"regexp"
	"strings"
	"testing"
)

func TestAReceiptNamesTheVotesPlace(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	var incarnations []string
	for range 2 {
		_, reply := b.json(`{"poll":"pets","choice":"cats"}`, j)
		text, _ := reply["receipt"].(string)
		r, _, ok := b.keys.readReceipt(text)
		stored := b.stored()
		if !ok || r.poll != 1 || r.voter != stored[0][2] || r.entry != stored[0][0] || r.incarnation != b.redis.Incarnation() {
			t.Fatalf("reply %v: receipt %+v, want the place of %v in %s", reply, r, stored, b.redis.Incarnation())
		}
		if spoken, _ := reply["reference"].(string); !regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$`).MatchString(spoken) {
			t.Errorf("reference %q", spoken)
		}
		incarnations = append(incarnations, r.incarnation)
		b.redis.Lose()
		b.redis.Restart()
		for b.probe(); b.Ready() != nil; b.probe() {
		}
	}
	if incarnations[0] == incarnations[1] {
		t.Error("the volume was lost, and the receipts name one incarnation")
	}
}

func TestAVoteWithoutAPlaceIsNotConfirmed(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := b.voter()
	b.end() // Else the regular probe may find the loss before the vote does.
	b.redis.Do("DEL", incarnation)
	if code, reply := b.json(`{"poll":"pets","choice":"cats"}`, j); code != 503 || reply["code"] != "unconfirmed" {
		t.Errorf("vote into a stream of no incarnation = %d %v", code, reply)
	}
	if b.probe(); b.Ready() == nil || !strings.Contains(b.Ready().Error(), "incarnation") {
		t.Errorf("Ready = %v", b.Ready())
	}
}

func FuzzReceipt(f *testing.F) {
	k, err := parseKeys("poll:" + keyP + "\nk1:" + keyA)
	if err != nil {
		f.Fatal(err)
	}
	voter := newVoter()
	f.Add(k.signReceipt(receipt{poll: 1, voter: "v", seq: 5, incarnation: "i", entry: "1-1"}, voter, 1))
	f.Add("r2.1.v.5.i.1-1.t.k1.x")
	f.Fuzz(func(t *testing.T, text string) {
		r, s, ok := k.readReceipt(text)
		if !ok {
			return
		}
		if r.tag == string(s.appendTag(nil, voter, r.poll, 1, r.seq)) && k.signReceipt(r, voter, 1) != text {
			t.Errorf("%q was accepted and is not what signing gives", text)
		}
		if reference(text) == "" {
			t.Errorf("%q has no reference", text)
		}
	})
}
