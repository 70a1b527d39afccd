package store

import (
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawVote draws from a small space, so that equal voters, sequences and times are common.
func drawVote(t *rapid.T) Vote {
	v := Vote{
		Poll:   rapid.Int32Range(1, 2).Draw(t, "poll"),
		Choice: rapid.Int16Range(1, 3).Draw(t, "choice"),
		Seq:    rapid.Int64Range(0, 2).Draw(t, "seq"),
		TS:     rapid.Int64Range(1, 3).Draw(t, "ts"),
	}
	v.Voter[15] = byte(rapid.IntRange(0, 3).Draw(t, "voter"))
	binary.BigEndian.PutUint64(v.EID[8:], rapid.Uint64Range(1, 1<<40).Draw(t, "eid"))
	return v
}

func TestFoldIgnoresOrderAndRepetition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		votes := rapid.SliceOfDistinct(rapid.Custom(drawVote), func(v Vote) [16]byte { return v.EID }).Draw(t, "votes")
		firsts := rapid.SliceOf(rapid.Int32Range(1, 2)).Draw(t, "firsts")
		want := Fold(slices.Clone(votes), firsts)
		again := slices.Clone(votes)
		for _, i := range rapid.SliceOf(rapid.IntRange(0, 99)).Draw(t, "repeated") {
			if len(votes) > 0 {
				again = append(again, votes[i%len(votes)])
			}
		}
		again = rapid.Permutation(again).Draw(t, "order")
		if got := Fold(again, firsts); !slices.Equal(got, want) {
			t.Fatalf("fold of the same votes in another order = %v, want %v", got, want)
		}
	})
}

func TestFoldOfPartsEqualsFoldOfAll(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		votes := rapid.SliceOfDistinct(rapid.Custom(drawVote), func(v Vote) [16]byte { return v.EID }).Draw(t, "votes")
		cut := rapid.IntRange(0, len(votes)).Draw(t, "cut")
		firsts := []int32{2}
		want := Fold(slices.Clone(votes), firsts)
		parts := append(Fold(slices.Clone(votes[:cut]), firsts), Fold(slices.Clone(votes[cut:]), firsts)...)
		if got := Fold(parts, firsts); !slices.Equal(got, want) {
			t.Fatalf("fold of two folds = %v, want %v", got, want)
		}
	})
}

func TestFoldKeepsTheVoteThatCounts(t *testing.T) {
	t.Parallel()
	old := Vote{Poll: 1, Choice: 1, Seq: 1, TS: 900}
	late := Vote{Poll: 1, Choice: 2, Seq: 2, TS: 100} // a node whose clock is behind
	for name, tc := range map[string]struct {
		firsts []int32
		want   Vote
	}{
		"last vote wins by sequence, not by clock":  {nil, late},
		"first vote wins by sequence, not by clock": {[]int32{1}, old},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Fold([]Vote{late, old}, tc.firsts); len(got) != 1 || got[0] != tc.want {
				t.Errorf("Fold = %v, want %v alone", got, tc.want)
			}
		})
	}
}
