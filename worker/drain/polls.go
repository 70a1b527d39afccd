package drain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Polls is what the worker needs of the polls file: which votes are possible, and which of a voter's votes wins.
type Polls struct {
	choices map[int32][]int16
	firsts  []int32
}

// LoadPolls reads the polls file; ARCHITECTURE.md has its format. Fields that the worker does not use are not checked.
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
	var file struct {
		Polls []struct {
			ID      int64  `json:"id"`
			Mode    string `json:"mode"`
			Options []struct {
				ID int64 `json:"id"`
			} `json:"options"`
		} `json:"polls"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("parsing JSON: %w", err)
	}
	p := &Polls{choices: map[int32][]int16{}}
	if len(file.Polls) == 0 {
		return nil, errors.New("polls: there must be at least one")
	}
	for i, poll := range file.Polls {
		if poll.ID < 1 || poll.ID > 1<<31-1 {
			return nil, fmt.Errorf("polls[%d].id is %d: it must be 1 to 2147483647", i, poll.ID)
		}
		id := int32(poll.ID)
		if _, twice := p.choices[id]; twice {
			return nil, fmt.Errorf("polls[%d].id is %d: another poll has that id", i, poll.ID)
		}
		switch poll.Mode {
		case "first":
			p.firsts = append(p.firsts, id)
		case "last", "":
		default:
			return nil, fmt.Errorf("polls[%d].mode is %q: it must be last or first", i, poll.Mode)
		}
		if len(poll.Options) == 0 {
			return nil, fmt.Errorf("polls[%d].options: there must be at least one", i)
		}
		p.choices[id] = nil
		for j, option := range poll.Options {
			if option.ID < 1 || option.ID > 1<<15-1 {
				return nil, fmt.Errorf("polls[%d].options[%d].id is %d: it must be 1 to 32767", i, j, option.ID)
			}
			if slices.Contains(p.choices[id], int16(option.ID)) {
				return nil, fmt.Errorf("polls[%d].options[%d].id is %d: another option has that id", i, j, option.ID)
			}
			p.choices[id] = append(p.choices[id], int16(option.ID))
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
