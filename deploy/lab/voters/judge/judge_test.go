package judge

import (
	"testing"

	"pgregory.net/rapid"
)

func name(n byte) Pseudonym { return Pseudonym{n, 0xff} }

func voter(n byte, ballots ...Ballot) Voter { return Voter{Pseudonym: name(n), Ballots: ballots} }

func acked(seq int64, choice int16) Ballot { return Ballot{Seq: seq, Choice: choice, Outcome: Acked} }
func unknown(seq int64, choice int16) Ballot {
	return Ballot{Seq: seq, Choice: choice, Outcome: Unknown}
}
func givenUp(seq int64, choice int16) Ballot {
	return Ballot{Seq: seq, Choice: choice, Outcome: Unknown, GivenUp: true}
}
func refused(seq int64, choice int16) Ballot {
	return Ballot{Seq: seq, Choice: choice, Outcome: Refused}
}
func row(n byte, seq int64, choice int16) Row {
	return Row{Pseudonym: name(n), Seq: seq, Choice: choice}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	cats, dogs := Slot{1, 1}, Slot{1, 2}
	tests := map[string]struct {
		rules  Rules
		voters []Voter
		books  Books
		want   Verdict
		broken bool
	}{
		"nobody came": {},
		"an acknowledged vote is counted": {
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Acked: 1, Counted: 1},
		},
		"a changed mind: the later vote counts": {
			voters: []Voter{voter(1, acked(1, 1), acked(2, 2))},
			books:  Books{Rows: []Row{row(1, 2, 2)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1},
		},
		"a changed mind, but the earlier vote counts: outdated": {
			voters: []Voter{voter(1, acked(1, 1), acked(2, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1, Outdated: 1},
			broken: true,
		},
		"the same choice twice does not hide the loss of the second": {
			voters: []Voter{voter(1, acked(1, 1), acked(2, 1))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1, Outdated: 1},
			broken: true,
		},
		"where the first vote counts, the first is right": {
			rules:  Rules{FirstWins: true},
			voters: []Voter{voter(1, acked(1, 1), acked(2, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1},
		},
		"where the first vote counts, a later one is a loss": {
			rules:  Rules{FirstWins: true},
			voters: []Voter{voter(1, acked(1, 1), acked(2, 2))},
			books:  Books{Rows: []Row{row(1, 2, 2)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1, Outdated: 1},
			broken: true,
		},
		"an acknowledged vote without a row: missing": {
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Captured: 1},
			want:   Verdict{Voters: 1, Acked: 1, Missing: 1, Concealed: 1},
			broken: true,
		},
		"an unknown vote without a row is nobody's fault": {
			voters: []Voter{voter(1, unknown(1, 1))},
			want:   Verdict{Voters: 1, Unknown: 1},
		},
		"an unknown vote with a row: recovered": {
			voters: []Voter{voter(1, unknown(1, 1))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Unknown: 1, Counted: 1, Unconfirmed: 1},
		},
		"an unknown later vote may replace an acknowledged one": {
			voters: []Voter{voter(1, acked(1, 1), unknown(2, 2))},
			books:  Books{Rows: []Row{row(1, 2, 2)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 1, Unknown: 1, Counted: 1, Unconfirmed: 1},
		},
		"an unknown earlier vote must not replace an acknowledged one": {
			voters: []Voter{voter(1, unknown(1, 1), acked(2, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 1, Unknown: 1, Counted: 1, Outdated: 1, Unconfirmed: 1},
			broken: true,
		},
		"given up, then another choice on the same page: the later must win": {
			voters: []Voter{voter(1, givenUp(1, 1), acked(1, 2)), voter(2, givenUp(1, 1), acked(1, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1), row(2, 1, 2)}, Captured: 4},
			want:   Verdict{Voters: 2, Acked: 2, Unknown: 2, Counted: 2, Unconfirmed: 1, Outdated: 1},
			broken: true,
		},
		"given up, and what came after has no answer either": {
			voters: []Voter{voter(1, givenUp(1, 1), unknown(1, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Unknown: 2, Counted: 1, Unconfirmed: 1},
		},
		"given up where the first vote counts": {
			rules:  Rules{FirstWins: true},
			voters: []Voter{voter(1, givenUp(1, 1), acked(1, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 1, Unknown: 1, Counted: 1, Unconfirmed: 1},
		},
		"two tabs: either may win": {
			voters: []Voter{voter(1, acked(1, 1), acked(1, 2)), voter(2, acked(1, 1), acked(1, 2))},
			books:  Books{Rows: []Row{row(1, 1, 1), row(2, 1, 2)}, Captured: 4},
			want:   Verdict{Voters: 2, Acked: 4, Counted: 2},
		},
		"two tabs, one without an answer: that one may win": {
			voters: []Voter{voter(1, acked(1, 1), unknown(1, 2))},
			books:  Books{Rows: []Row{row(1, 1, 2)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 1, Unknown: 1, Counted: 1, Unconfirmed: 1},
		},
		"two tabs, but a third choice: wrong": {
			voters: []Voter{voter(1, acked(1, 1), acked(1, 2))},
			books:  Books{Rows: []Row{row(1, 1, 3)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1, Wrong: 1},
			broken: true,
		},
		"a choice that was cast with another sequence: wrong": {
			voters: []Voter{voter(1, acked(1, 1), acked(2, 2))},
			books:  Books{Rows: []Row{row(1, 2, 1)}, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1, Wrong: 1},
			broken: true,
		},
		"a refused vote that counts: wrong": {
			voters: []Voter{voter(1, refused(1, 1))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Refused: 1, Counted: 1, Wrong: 1},
			broken: true,
		},
		"a vote of somebody who never pressed: wrong": {
			voters: []Voter{voter(1)},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Counted: 1, Wrong: 1},
			broken: true,
		},
		"a sequence below the promised one, and never cast: outdated and wrong": {
			voters: []Voter{voter(1, acked(5, 1))},
			books:  Books{Rows: []Row{row(1, 4, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Acked: 1, Counted: 1, Outdated: 1, Wrong: 1},
			broken: true,
		},
		"two voters with one identity: the second has no vote": {
			voters: []Voter{voter(1, acked(1, 1)), voter(1, acked(1, 1))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 2},
			want:   Verdict{Voters: 2, Acked: 2, Counted: 1, Missing: 1, Concealed: 1},
			broken: true,
		},
		"voters who never got a ballot have no identity to share": {
			voters: []Voter{{}, {}},
			want:   Verdict{Voters: 2},
		},
		"other people voted before and meanwhile": {
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Rows: []Row{row(7, 1, 1), row(1, 1, 1), row(8, 9, 2)}, StrangersBefore: 1, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 1, Counted: 1, Strangers: 1},
		},
		"alone in the poll, a stranger is wrong": {
			rules:  Rules{Alone: true},
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Rows: []Row{row(7, 1, 1), row(1, 1, 1), row(8, 9, 2)}, StrangersBefore: 1, Captured: 2},
			want:   Verdict{Voters: 1, Acked: 1, Counted: 1, Strangers: 1, Wrong: 1},
			broken: true,
		},
		"the tally equals the votes": {
			books: Books{Counts: map[Slot]int64{cats: 2, dogs: 1}, Tally: map[Slot]int64{cats: 2, dogs: 1, {2, 1}: 0}},
		},
		"drift does not cancel out": {
			books:  Books{Counts: map[Slot]int64{cats: 2, dogs: 1}, Tally: map[Slot]int64{cats: 1, dogs: 2}},
			want:   Verdict{Drift: 2},
			broken: true,
		},
		"drift of a choice that only one side knows": {
			books:  Books{Counts: map[Slot]int64{cats: 2}, Tally: map[Slot]int64{dogs: -3}},
			want:   Verdict{Drift: 5},
			broken: true,
		},
		"the public is told something else": {
			books: Books{Counts: map[Slot]int64{cats: 2, dogs: 1}, Tally: map[Slot]int64{cats: 2, dogs: 1},
				Shown: map[Slot]int64{cats: 3, {1, 3}: 1}},
			want:   Verdict{Drift: 2},
			broken: true,
		},
		"the public is told the tally, and the tally is wrong": {
			books:  Books{Counts: map[Slot]int64{cats: 2}, Tally: map[Slot]int64{cats: 3}, Shown: map[Slot]int64{cats: 3}},
			want:   Verdict{Drift: 1},
			broken: true,
		},
		"votes are lost, and the ledger says so": {
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Captured: 1, LostEntries: 1, Open: 1},
			want:   Verdict{Voters: 1, Acked: 1, Missing: 1, Unaccounted: 1},
			broken: true,
		},
		"votes are lost in a gap": {
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Captured: 1, Gaps: 1, Open: 1},
			want:   Verdict{Voters: 1, Acked: 1, Missing: 1, Gaps: 1},
			broken: true,
		},
		"a disk was lost, and copies gave everything back": {
			voters: []Voter{voter(1, acked(1, 1))},
			books:  Books{Rows: []Row{row(1, 1, 1)}, Captured: 1, Recovered: 1, Gaps: 1, Open: 1},
			want:   Verdict{Voters: 1, Acked: 1, Counted: 1, Recovered: 1, Gaps: 1},
		},
		"whole in spite of a gap": {
			books:  Books{Gaps: 1, Open: 1, Whole: true},
			want:   Verdict{Gaps: 1, Concealed: 1},
			broken: true,
		},
		"whole after an operator closed the gap": {
			books: Books{Gaps: 1, Whole: true, Single: 3},
			want:  Verdict{Gaps: 1, Single: 3},
		},
		"entries that the ledger reports lost": {
			books:  Books{LostEntries: 3},
			want:   Verdict{Unaccounted: 3},
			broken: true,
		},
		"an acknowledged ballot that never became an entry": {
			voters: []Voter{voter(1, acked(1, 1), acked(2, 1))},
			books:  Books{Rows: []Row{row(1, 2, 1)}, Captured: 1},
			want:   Verdict{Voters: 1, Acked: 2, Counted: 1, Unaccounted: 1},
			broken: true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Judge(test.rules, test.voters, test.books)
			if got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
			if got.Clean() == test.broken {
				t.Errorf("Clean() = %v", got.Clean())
			}
		})
	}
}

func TestRecordKeepsTheStrongestOutcome(t *testing.T) {
	t.Parallel()
	var v Voter
	for _, outcome := range []Outcome{Refused, Unknown, Acked, Unknown, Refused} {
		v.Record(4, 2, outcome)
	}
	v.Record(4, 1, Unknown)
	v.Record(5, 1, Unknown)
	v.GiveUp(4, 2)
	v.GiveUp(5, 1)
	if len(v.Ballots) != 3 || v.Ballots[0] != acked(4, 2) || v.Ballots[1] != unknown(4, 1) || v.Ballots[2] != givenUp(5, 1) {
		t.Errorf("got %+v", v.Ballots)
	}
}

// run is a random run together with the books of a system that kept every promise.
func run(t *rapid.T) (Rules, []Voter, Books) {
	rules := Rules{FirstWins: rapid.Bool().Draw(t, "first wins"), Alone: true}
	books := Books{Counts: map[Slot]int64{}, Tally: map[Slot]int64{}}
	var voters []Voter
	for n := range rapid.IntRange(1, 12).Draw(t, "voters") {
		v := Voter{Pseudonym: name(byte(n))}
		var counted *Row
		for range rapid.IntRange(0, 6).Draw(t, "presses") {
			seq, choice := rapid.Int64Range(1, 3).Draw(t, "seq"), rapid.Int16Range(1, 3).Draw(t, "choice")
			outcome := Outcome(rapid.IntRange(int(Refused), int(Acked)).Draw(t, "outcome"))
			v.Record(seq, choice, outcome)
			if outcome == Refused || outcome == Unknown && rapid.Bool().Draw(t, "not captured") {
				continue
			}
			books.Captured++
			// Among equals the later press wins where the last vote counts; the judge must accept either.
			if counted == nil || !rules.FirstWins && seq >= counted.Seq || rules.FirstWins && seq < counted.Seq {
				counted = &Row{Pseudonym: v.Pseudonym, Seq: seq, Choice: choice}
			}
		}
		voters = append(voters, v)
		if counted != nil {
			books.Rows = append(books.Rows, *counted)
			books.Counts[Slot{1, counted.Choice}]++
			books.Tally[Slot{1, counted.Choice}]++
		}
	}
	return rules, voters, books
}

func TestAHonestSystemIsNeverBlamed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rules, voters, books := run(t)
		got := Judge(rules, voters, books)
		if !got.Clean() {
			t.Fatalf("voters %+v\nbooks %+v\nblamed: %+v", voters, books, got)
		}
		if got.Counted != int64(len(books.Rows)) {
			t.Fatalf("counted %d of %d", got.Counted, len(books.Rows))
		}
		if again := Judge(rules, rapid.Permutation(voters).Draw(t, "order"), books); again != got {
			t.Fatalf("the order of voters decides: %+v, then %+v", got, again)
		}
	})
}

// faults are single dishonest acts; each returns false if the run gives no occasion for it, else what must not be 0.
var faults = map[string]func(*rapid.T, Rules, []Voter, *Books) (func(Verdict) int64, bool){
	"an acknowledged voter's row vanishes": func(_ *rapid.T, _ Rules, voters []Voter, b *Books) (func(Verdict) int64, bool) {
		for i := range voters {
			for j, r := range b.Rows {
				if r.Pseudonym == voters[i].Pseudonym && promised(&voters[i]) {
					b.Rows = append(b.Rows[:j:j], b.Rows[j+1:]...)
					return func(v Verdict) int64 { return v.Missing }, true
				}
			}
		}
		return nil, false
	},
	"a row gets a choice that nobody pressed": func(t *rapid.T, _ Rules, _ []Voter, b *Books) (func(Verdict) int64, bool) {
		if len(b.Rows) == 0 {
			return nil, false
		}
		b.Rows[rapid.IntRange(0, len(b.Rows)-1).Draw(t, "row")].Choice = 9
		return func(v Verdict) int64 { return v.Wrong }, true
	},
	"a promised vote is replaced by one of a beaten sequence": func(_ *rapid.T, rules Rules, voters []Voter, b *Books) (func(Verdict) int64, bool) {
		for i, r := range b.Rows {
			for _, v := range voters {
				if v.Pseudonym == r.Pseudonym && promised(&v) {
					b.Rows[i].Seq = -100
					if rules.FirstWins {
						b.Rows[i].Seq = 100
					}
					return func(v Verdict) int64 { return v.Outdated }, true
				}
			}
		}
		return nil, false
	},
	"a stranger's vote appears": func(_ *rapid.T, _ Rules, _ []Voter, b *Books) (func(Verdict) int64, bool) {
		b.Rows = append(b.Rows, Row{Pseudonym: Pseudonym{0xee}, Seq: 1, Choice: 1})
		return func(v Verdict) int64 { return v.Wrong }, true
	},
	"the tally gains a vote": func(_ *rapid.T, _ Rules, _ []Voter, b *Books) (func(Verdict) int64, bool) {
		b.Tally[Slot{1, 1}]++
		return func(v Verdict) int64 { return v.Drift }, true
	},
	"an entry is lost": func(_ *rapid.T, _ Rules, _ []Voter, b *Books) (func(Verdict) int64, bool) {
		b.LostEntries++
		return func(v Verdict) int64 { return v.Unaccounted }, true
	},
}

func TestEveryFaultIsNoticed(t *testing.T) {
	t.Parallel()
	for name, commit := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				rules, voters, books := run(t)
				counter, done := commit(t, rules, voters, &books)
				if !done {
					return
				}
				if got := Judge(rules, voters, books); counter(got) == 0 || got.Clean() {
					t.Fatalf("voters %+v\nbooks %+v\nnot noticed: %+v", voters, books, got)
				}
			})
		})
	}
}
