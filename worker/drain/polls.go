package drain

import (
	"fmt"
	"os"
	"slices"

	"waggle/functions/pollfile"
)

// Polls is what the worker needs of the poll file: which votes are possible, and which of a voter's votes wins.
type Polls struct {
	choices map[int32][]int16
	firsts  []int32
}

// LoadPolls reads the poll file; package pollfile has its rules.
func LoadPolls(path string) (*Polls, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the polls: %w", err)
	}
	p, err := parsePolls(text)
	if err != nil {
		return nil, fmt.Errorf("reading the polls from %s: %w", path, err)
	}
	return p, nil
}

func parsePolls(text []byte) (*Polls, error) {
	polls, err := pollfile.Parse(text)
	if err != nil {
		return nil, err
	}
	p := &Polls{choices: map[int32][]int16{}}
	for i := range polls {
		poll := &polls[i]
		if poll.KeepsFirst() {
			p.firsts = append(p.firsts, poll.ID)
		}
		for _, option := range poll.Options {
			p.choices[poll.ID] = append(p.choices[poll.ID], option.ID)
		}
	}
	return p, nil
}

// refuse says why there can't be a vote for choice in poll, or nothing.
func (p *Polls) refuse(poll int32, choice int16) string {
	choices, ok := p.choices[poll]
	if !ok {
		return "unknown poll"
	}
	if !slices.Contains(choices, choice) {
		return "unknown choice"
	}
	return ""
}
