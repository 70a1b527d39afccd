package waggle

import (
	"fmt"
	"go/ast"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxWords is the most words of a sentence: a longer one holds more than one idea.
const maxWords = 25

var (
	// oneWord is what counts as one word whatever is in it: a code span or the target of a link.
	oneWord = regexp.MustCompile("`[^`]*`|\\]\\([^)]*\\)")
	// listItem begins a text of its own, as an empty line does.
	listItem = regexp.MustCompile(`^([-*]|\d+\.) `)
	// sentenceEnd needs no capital after it, since a sentence may begin with an identifier.
	sentenceEnd = regexp.MustCompile(`[.!?]["')\]*_]*\s+`)
)

// text is lines of prose that belong together.
type text struct {
	line int // of its beginning
	said strings.Builder
}

// tooLong gives the sentences of more than maxWords words, each with the line at which its text begins.
func (t *text) tooLong() (found []string) {
	said := oneWord.ReplaceAllString(t.said.String(), "x")
	for sentence := range strings.SplitSeq(sentenceEnd.ReplaceAllString(said, "$0\n"), "\n") {
		if n := len(strings.Fields(sentence)); n > maxWords {
			found = append(found, fmt.Sprintf("%d: %d words, at most %d: %s", t.line, n, maxWords, strings.TrimSpace(sentence)))
		}
	}
	return found
}

// commentTexts parts a comment at empty lines, preformatted ones and list items.
func commentTexts(src source, comment *ast.CommentGroup) (all []*text) {
	var now *text
	for _, c := range comment.List {
		at := src.places.Position(c.Pos()).Line
		for n, line := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), "/*"), "*/"), "\n") {
			said := strings.TrimSpace(line)
			if said == "" || strings.HasPrefix(line, "\t") || strings.HasPrefix(c.Text, "//go:") {
				now = nil
				continue
			}
			if now == nil || listItem.MatchString(said) {
				now = &text{line: at + n}
				all = append(all, now)
			}
			now.said.WriteString(said + " ")
		}
	}
	return all
}

func TestCommentsHaveShortSentences(t *testing.T) {
	t.Parallel()
	for _, src := range sources(t) {
		if ast.IsGenerated(src.syntax) {
			continue
		}
		for _, comment := range src.syntax.Comments {
			for _, text := range commentTexts(src, comment) {
				for _, sentence := range text.tooLong() {
					t.Errorf("%s:%s", src.file, sentence)
				}
			}
		}
	}
}

// documentTexts parts a Markdown document at empty lines, code, tables, headings and list items.
func documentTexts(document string) (all []*text) {
	var now *text
	code := false
	for n, line := range strings.Split(document, "\n") {
		said := strings.TrimSpace(line)
		fence := strings.HasPrefix(said, "```")
		code = code != fence
		if code || fence || said == "" || strings.HasPrefix(line, "    ") || strings.ContainsRune("|#", rune(said[0])) {
			now = nil
			continue
		}
		if now == nil || listItem.MatchString(said) {
			now = &text{line: n + 1}
			all = append(all, now)
		}
		now.said.WriteString(said + " ")
	}
	return all
}

func TestDocumentsHaveShortSentences(t *testing.T) {
	t.Parallel()
	found := 0
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "build") {
			return fs.SkipDir
		}
		if filepath.Ext(file) != ".md" {
			return nil
		}
		found++
		document, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, text := range documentTexts(string(document)) {
			for _, sentence := range text.tooLong() {
				t.Errorf("%s:%s", file, sentence)
			}
		}
		return nil
	})
	if err != nil || found < 10 {
		t.Errorf("%d documents, want at least 10, and %v", found, err)
	}
}

func TestSentencesAreCounted(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		said string
		want int
	}{
		"at the bound":             {strings.Repeat("word ", maxWords-1) + "end.", 0},
		"beyond it":                {strings.Repeat("word ", maxWords) + "end.", 1},
		"two sentences":            {strings.Repeat("word ", maxWords-1) + "end. now " + strings.Repeat("word ", maxWords-2) + "end.", 0},
		"an end within quotes":     {strings.Repeat("word ", maxWords-1) + "end.) Now it goes on.", 0},
		"a code span is one word":  {strings.Repeat("word ", maxWords-2) + "`a b c d` end.", 0},
		"a version ends no clause": {strings.Repeat("word ", maxWords-1) + "1.2 end.", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := &text{line: 1}
			text.said.WriteString(tc.said)
			if got := text.tooLong(); len(got) != tc.want {
				t.Errorf("too long: %q, want %d", got, tc.want)
			}
		})
	}
}
