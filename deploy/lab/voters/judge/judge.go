// Package judge decides whether a vote-capture system kept its promise, from what voters were told and what was counted.
//
// It stands at the end of a load run. In: each voter's ballots with the best answer to each, and the books as
// one snapshot of Postgres showed them. Out: a [Verdict]. It is a pure function: no clock, no network, no order
// of inputs matters. So a table test shows that each of its counters fires.
//
// The definitions are those of Jepsen's total-queue checker, turned into a register per voter. A voter has at most
// one counted vote, decided by the sequence number of the ballot. Ballots of one voter with the same sequence (two
// tabs of one browser) are equal: either may win. The primary key leaves room for only one. But a press that its
// voter gave up without an answer must not win against the one that they made after it.
package judge

import (
	"cmp"
	"slices"
)

// Outcome is what a voter knows of a ballot. A greater outcome is a stronger one.
type Outcome uint8

const (
	// Refused means a final no: nothing was sent, or the answer was a refusal. Such a ballot must not be counted.
	Refused Outcome = iota
	// Unknown means no usable answer: it may have been counted or not.
	Unknown
	// Acked means the system promised to count it.
	Acked
)

// Pseudonym is the voter as the books name them: never the id in the voter's cookie.
type Pseudonym [16]byte

// Ballot is one form, filled in one way: repeats of it are the same ballot.
type Ballot struct {
	Seq     int64
	Choice  int16
	Outcome Outcome
	// GivenUp: the voter waited in vain, and whatever else they pressed with this sequence they pressed afterwards.
	GivenUp bool
}

// Voter is one voter of the run. A voter who never pressed has no ballots.
type Voter struct {
	Pseudonym Pseudonym
	Ballots   []Ballot
}

// Record notes the outcome of one more attempt at a ballot. The strongest outcome stays: a vote that was once
// acknowledged is promised, whatever a repeat of it was told. A voter's memory is therefore bounded by what they
// filled in, not by how often they pressed.
func (v *Voter) Record(seq int64, choice int16, outcome Outcome) {
	for i := range v.Ballots {
		if b := &v.Ballots[i]; b.Seq == seq && b.Choice == choice {
			b.Outcome = max(b.Outcome, outcome)
			return
		}
	}
	v.Ballots = append(v.Ballots, Ballot{Seq: seq, Choice: choice, Outcome: outcome})
}

// GiveUp notes that the voter waits no longer for an answer to this ballot, and presses something else.
func (v *Voter) GiveUp(seq int64, choice int16) {
	for i := range v.Ballots {
		if b := &v.Ballots[i]; b.Seq == seq && b.Choice == choice && b.Outcome == Unknown {
			b.GivenUp = true
		}
	}
}

// Row is one counted vote of the judged poll.
type Row struct {
	Pseudonym Pseudonym
	Seq       int64
	Choice    int16
}

// Slot is one choice of one poll.
type Slot struct {
	Poll   int32
	Choice int16
}

// Books is what was counted, all of it from one snapshot.
type Books struct {
	// Rows are all votes of the judged poll, other people's included.
	Rows []Row
	// Counts are the votes per choice of every poll, counted one by one; Tally is what the system says they are.
	Counts map[Slot]int64
	Tally  map[Slot]int64
	// Shown is what the public is told, nil if nobody asked; choices that are hidden are not in it.
	Shown map[Slot]int64
	// Captured is by how many entries the ledger grew during the run. LostEntries is how many of all entries it
	// has since learned to be neither counted nor pending nor rejected.
	Captured, LostEntries int64
	// Recovered is how many entries were counted from copies during the run, Single how many were confirmed with one copy. Gaps is
	// the number of stretches of time, noted during the run, whose votes the ledger cannot account for.
	Recovered, Single, Gaps int64
	// Open is the number of lost entries and of gaps that nobody has closed yet. Whole means that the public is told
	// nevertheless that every vote is accounted for.
	Open  int64
	Whole bool
	// StrangersBefore is the number of rows of the judged poll before the run.
	StrangersBefore int64
}

// Rules say how the poll decides and who takes part.
type Rules struct {
	// FirstWins is a poll in which the voter's first vote counts; otherwise it is the last.
	FirstWins bool
	// Alone promises that nobody but the run's voters voted in the poll meanwhile. A new row of anybody else is then wrong.
	Alone bool
}

// Verdict is the result. Ballots are counted in Acked, Unknown and Refused; voters in Outdated, Missing, Wrong and
// Unconfirmed; votes in Drift; captured entries in Unaccounted.
type Verdict struct {
	Voters  int64 `json:"voters"`
	Acked   int64 `json:"acked"`
	Unknown int64 `json:"unknown"`
	Refused int64 `json:"refused"`
	// Counted is the number of the run's voters who have a counted vote.
	Counted int64 `json:"counted"`
	// Outdated counts voters whose counted vote is an earlier one than the system promised to count (a later one if the first wins).
	Outdated int64 `json:"outdated"`
	// Missing counts voters who were promised a vote and have none, also because they share another voter's identity.
	Missing int64 `json:"missing"`
	// Wrong counts counted votes that no voter cast, or that were refused.
	Wrong int64 `json:"wrong"`
	// Unconfirmed counts counted votes whose voter never learned of it. They are right.
	Unconfirmed int64 `json:"unconfirmed"`
	// Drift sums the distances, over all choices, between the tally and the counted votes, and between what is
	// shown and the tally.
	Drift int64 `json:"drift"`
	// Unaccounted counts entries that the ledger reports lost, and acknowledged ballots that never became an
	// entry. Each ballot is at least one entry.
	Unaccounted int64 `json:"unaccounted"`
	// Strangers is the number of rows that joined the poll during the run without belonging to one of its voters.
	Strangers int64 `json:"strangers"`
	// Concealed counts missing votes of which the ledger says nothing, neither as losses nor as a gap. It has one
	// more if the ledger says that all is accounted for while a loss or a gap is open.
	Concealed int64 `json:"concealed"`
	// Recovered, Single and Gaps are those of [Books]. None of them breaks a promise.
	Recovered int64 `json:"recovered"`
	Single    int64 `json:"single"`
	Gaps      int64 `json:"gaps"`
}

// Clean reports whether the promise held.
func (v Verdict) Clean() bool {
	return v.Outdated == 0 && v.Missing == 0 && v.Wrong == 0 && v.Drift == 0 && v.Unaccounted == 0 && v.Concealed == 0
}

// Judge compares. It keeps neither argument and changes none; memory is about 48 bytes per voter.
func Judge(rules Rules, voters []Voter, books Books) Verdict {
	verdict := Verdict{Voters: int64(len(voters)), Drift: drift(books.Counts, books.Tally)}
	for slot, n := range books.Shown {
		verdict.Drift += abs(n - books.Tally[slot])
	}
	index, twins := byPseudonym(voters)
	for _, i := range twins {
		verdict.count(&voters[i])
		if promised(&voters[i]) {
			verdict.Missing++
		}
	}
	counted := make([]bool, len(voters))
	strangers := -books.StrangersBefore
	for _, row := range books.Rows {
		i, ours := index[row.Pseudonym]
		if !ours {
			strangers++
			continue
		}
		counted[i] = true
		verdict.Counted++
		verdict.compare(rules, &voters[i], row)
	}
	for _, i := range index {
		verdict.count(&voters[i])
		if !counted[i] && promised(&voters[i]) {
			verdict.Missing++
		}
	}
	verdict.Unaccounted = books.LostEntries + max(verdict.Acked-books.Captured, 0)
	verdict.Strangers = max(strangers, 0)
	if rules.Alone {
		verdict.Wrong += verdict.Strangers
	}
	verdict.Recovered, verdict.Single, verdict.Gaps = books.Recovered, books.Single, books.Gaps
	if books.LostEntries == 0 && books.Gaps == 0 {
		verdict.Concealed = verdict.Missing
	}
	if books.Whole && books.Open > 0 {
		verdict.Concealed++
	}
	return verdict
}

// byPseudonym finds voters by name. Twins are those whose identity an earlier voter already has: one of the two
// cannot have a vote of their own. A cached cookie does that to voters.
func byPseudonym(voters []Voter) (index map[Pseudonym]int32, twins []int32) {
	index = make(map[Pseudonym]int32, len(voters))
	for i := range voters {
		if len(voters[i].Ballots) == 0 && voters[i].Pseudonym == (Pseudonym{}) {
			continue // Never got a ballot, so has no identity that a row could bear.
		}
		if _, taken := index[voters[i].Pseudonym]; taken {
			twins = append(twins, int32(i))
			continue
		}
		index[voters[i].Pseudonym] = int32(i)
	}
	return index, twins
}

func promised(v *Voter) bool {
	return slices.ContainsFunc(v.Ballots, func(b Ballot) bool { return b.Outcome == Acked })
}

// answered reports whether a ballot of this sequence was acknowledged.
func (v *Voter) answered(seq int64) bool {
	return slices.ContainsFunc(v.Ballots, func(b Ballot) bool { return b.Seq == seq && b.Outcome == Acked })
}

func (v *Verdict) count(voter *Voter) {
	for _, b := range voter.Ballots {
		switch b.Outcome {
		case Acked:
			v.Acked++
		case Unknown:
			v.Unknown++
		case Refused:
			v.Refused++
		}
	}
}

// compare judges the counted vote of a voter of the run. A vote can be both outdated and wrong.
func (v *Verdict) compare(rules Rules, voter *Voter, row Row) {
	order := cmp.Compare[int64]
	if rules.FirstWins {
		order = func(a, b int64) int { return cmp.Compare(b, a) }
	}
	outdated, cast, known := false, false, false
	for _, b := range voter.Ballots {
		if b.Outcome == Acked && order(row.Seq, b.Seq) < 0 {
			outdated = true
		}
		if b.Seq == row.Seq && b.Choice == row.Choice {
			cast = cast || b.Outcome != Refused
			known = known || b.Outcome == Acked
			outdated = outdated || b.GivenUp && !rules.FirstWins && voter.answered(b.Seq)
		}
	}
	switch {
	case !cast:
		v.Wrong++
	case !known:
		v.Unconfirmed++
	}
	if outdated {
		v.Outdated++
	}
}

func drift(counts, tally map[Slot]int64) (sum int64) {
	for slot, n := range counts {
		sum += abs(n - tally[slot])
	}
	for slot, n := range tally {
		if _, seen := counts[slot]; !seen {
			sum += abs(n)
		}
	}
	return sum
}

func abs(n int64) int64 { return max(n, -n) }
