package up

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"waggle/functions/pollfile"
)

// readPolls reads and checks the poll file before anything is changed: a part of the system that started with a wrong
// one would stop again.
func (s *System) readPolls() (string, error) {
	path := filepath.Join(s.Root, "functions", "polls.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the polls: %w", err)
	}
	polls, err := pollfile.Parse(text)
	if err != nil {
		return "", advise(fmt.Errorf("%s: %w", path, err), "Mend the poll file; nothing was changed.")
	}
	s.polls = text
	slugs := make([]string, len(polls))
	for i := range polls {
		slugs[i] = polls[i].Slug
	}
	return strings.Join(slugs, ", "), nil
}
