// Package pollfile has the rules of the poll file, functions/polls.json: which polls there are, who may vote how often,
// and when. It stands before everything that reads that file.
//
// In: the text of a poll file. Out: its polls, or every mistake in it. vote, results, worker and the deploy program
// accept the same files, because all of them run this folder's polls.go. They also hash ballot codes alike.
package pollfile

//go:generate sh -c "sed s/pollfile$/vote/ polls.go >../vote/polls.go && sed s/pollfile$/vote/ code.go >../vote/code.go && sed s/pollfile$/results/ polls.go >../results/polls.go"

type (
	// Poll is one question.
	Poll = poll
	// Option is one of its answers.
	Option = option
)

// CodeAlphabet, CodeLength and CodeHashBytes say what a ballot code and its hash are.
const (
	CodeAlphabet  = codeAlphabet
	CodeLength    = codeLength
	CodeHashBytes = codeHashBytes
)

// CodeHash is the hash of a ballot code of the poll.
func CodeHash(poll int32, code string) [CodeHashBytes]byte { return codeHash(poll, code) }

// Parse reads a poll file. The error names every mistake, each with its place and what is legal.
func Parse(text []byte) ([]Poll, error) { return parsePolls(text) }
