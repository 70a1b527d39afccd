package up

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The words and the sum are those of the results page, and "accounted for" is said only of a whole ledger.
func TestLedgerForPeople(t *testing.T) {
	t.Parallel()
	var l Ledger
	text := `{"captured":65,"counted":49,"pending":12,"rejected":1,"lost":3,"missing":1,"whole":false,"reasons":[
		{"code":"pending","n":12},{"code":"silent","node":"node2","since":"2026-11-29T03:00:00Z"},{"code":"lost","n":3},
		{"code":"gap","node":"node2","since":"2026-11-29T02:00:00Z","until":"2026-11-29T03:00:00Z","closed":true}]}`
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	if got := l.String(); got != "65 captured = 49 counted + 12 pending + 1 rejected + 3 lost" {
		t.Errorf("ledger = %q", got)
	}
	now := time.Date(2026, 11, 30, 5, 0, 0, 0, time.UTC)
	got := fmt.Sprint(l.troubles(now))
	want := "[{12 captured votes are not counted yet false}" +
		" {node node2 is silent since 29 November 03:00:00 UTC (26h0m0s ago); what it holds is not counted yet true}" +
		" {3 captured votes are lost true}" +
		" {votes captured on node node2 between 29 November 02:00:00 UTC (27h0m0s ago) and 29 November 03:00:00 UTC (26h0m0s ago)" +
		" cannot be accounted for; an operator has closed this false}]"
	if got != want {
		t.Errorf("troubles\n%s\nwant\n%s", got, want)
	}
	l = Ledger{Captured: 2, Counted: 2, Recovered: 1, Single: 2}
	if got, want := l.String(), "; 1 of the counted were recovered from copies; 2 were confirmed with one copy"; !strings.HasSuffix(got, want) {
		t.Errorf("ledger = %q, want it to end in %q", got, want)
	}
	l = Ledger{Captured: 2, Counted: 2, Whole: true}
	if got := l.String(); !strings.HasSuffix(got, "every captured vote is accounted for") {
		t.Errorf("whole ledger = %q", got)
	}
}
