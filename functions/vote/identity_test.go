package vote

import (
	"strings"
	"testing"
	"time"
)

// TestAnotherSiteCannotGiveAVoterASecondIdentity: browsers keep SameSite=Lax cookies out of a form that another site
// posts, but store what its answer sets. A new token would replace the voter's own, and the voter could vote again.
func TestAnotherSiteCannotGiveAVoterASecondIdentity(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for name, header := range map[string]map[string]string{
		"by Sec-Fetch-Site": with(browser, "Sec-Fetch-Site", "cross-site"),
		"by Origin":         {"Accept": "text/html", "Origin": "http://evil.example"},
		"no browser":        {"Origin": "http://evil.example"},
		"wrong type":        with(browser, "Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"),
	} {
		w := b.send("POST", "/?poll=pets", "poll=pets&choice=cats", nil, header)
		if got := w.Header()["Set-Cookie"]; w.Code != 403 || got != nil {
			t.Errorf("%s = %d, sets %q", name, w.Code, got)
		}
		if page := w.Body.String(); strings.Contains(page, "<form") {
			t.Errorf("%s: the page has a form, which fits no token of this browser's:\n%s", name, page)
		}
	}
	w := b.send("POST", "/?poll=pets", "poll=pets&choice=cats", nil, with(browser, "Sec-Fetch-Site", "cross-site"))
	if !strings.Contains(w.Body.String(), `<a href="?poll=pets">`) {
		t.Errorf("the page does not lead to the ballot:\n%s", w.Body)
	}
}

// TestTheBallotAfterAnUnconfirmedVoteIsANewerOne: the vote before may have been stored with a capture time of a clock
// that is ahead. So the time must not decide between it and the next press.
func TestTheBallotAfterAnUnconfirmedVoteIsANewerOne(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	j := jar{}
	page := b.send("GET", "/?poll=pets", "", j, browser).Body.String()
	real := newLossy(t, b.redis.Socket())
	other := setupWith(t, func(c *config) { c.socket = real.path })
	other.probe()
	other.now = func() time.Time { return time.Now().Add(time.Minute) } // a node whose clock is ahead
	real.drop.Store(true)
	failed := other.send("POST", "/?poll=pets", press(t, page, "cats"), j, browser)
	if failed.Code != 503 {
		t.Fatalf("vote without an answer from Redis = %d %s", failed.Code, failed.Body)
	}
	if w := b.send("POST", "/?poll=pets", press(t, failed.Body.String(), "dogs"), j, browser); w.Code != 303 {
		t.Fatalf("vote = %d %s", w.Code, w.Body)
	}
	stored := b.stored()
	if len(stored) != 2 || stored[0][2] != stored[1][2] || stored[0][4] >= stored[1][4] {
		t.Errorf("stored %v, want one voter and the acknowledged vote with the higher sequence", stored)
	}
	if got := b.tokenOf(j).seq; got != 3 {
		t.Errorf("next sequence %d, want 3", got)
	}
}

// TestARotationInTwoStepsKeepsEveryIdentity: while an update is rolled out, replicas of two neighbouring steps answer.
func TestARotationInTwoStepsKeepsEveryIdentity(t *testing.T) {
	t.Parallel()
	poll, k1, k2 := "poll:"+keyP+"\n", "k1:"+keyA+"\n", "k2:"+keyB+"\n"
	steps := []*keys{testKeys(t, poll+k1), testKeys(t, poll+k1+k2), testKeys(t, poll+k2+k1)}
	now := time.Now()
	before := newToken(now)
	for i := range steps[:len(steps)-1] {
		for name, pair := range map[string][2]*keys{"forth": {steps[i], steps[i+1]}, "back": {steps[i+1], steps[i]}} {
			if got, err := pair[1].readToken(pair[0].signToken(before), now); err != nil || got != before {
				t.Errorf("step %d %s: token %+v, %v; want %+v", i, name, got, err, before)
			}
		}
	}
	if _, err := steps[0].readToken(steps[2].signToken(before), now); err == nil {
		t.Error("one step would do, and this test shows nothing")
	}
}
