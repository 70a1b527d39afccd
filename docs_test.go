package waggle

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are the repository's Markdown files by name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"build", "dist"}, entry.Name())):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ".md":
			return nil
		}
		text, err := os.ReadFile(name)
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	fences   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	code     = regexp.MustCompile("`[^`\n]*`")
	links    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	unlinked = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are the names by which a page's headings are linked, as GitHub makes them.
func anchors(text string) (all []string) {
	for _, heading := range headings.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
		name := unlinked.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading[1])), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// TestLinksLeadSomewhere follows each link of the documents within the repository, to a file and to its heading.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for name, text := range all {
		for _, link := range links.FindAllStringSubmatch(code.ReplaceAllString(fences.ReplaceAllString(text, ""), ""), -1) {
			target, anchor, _ := strings.Cut(link[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := name
			if target != "" {
				to = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links %s: %v", name, link[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(all[to]), anchor) {
				t.Errorf("%s links %s: there is no such heading", name, link[1])
			}
		}
	}
}

var (
	called  = regexp.MustCompile(`/(?:async-)?function/([a-z0-9-]+)`)
	invoked = regexp.MustCompile(`faas-cli (?:invoke|describe|logs|remove) ([a-z0-9-]+)`)
	created = regexp.MustCompile(`faas-cli new .*--prefix \S+ ([a-z0-9-]+)`)
)

// TestExamplesCallFunctionsThatExist: what a newcomer may copy from the documents calls a function of stack.yml, or one that
// README.md makes.
func TestExamplesCallFunctionsThatExist(t *testing.T) {
	t.Parallel()
	all := pages(t)
	exist := []string{"vote", "results"}
	for _, name := range created.FindAllStringSubmatch(all["README.md"], -1) {
		exist = append(exist, name[1])
	}
	stack, err := os.ReadFile("stack.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range exist[:2] {
		if !strings.Contains(string(stack), "\n  "+name+":\n") {
			t.Errorf("stack.yml has no function %s", name)
		}
	}
	for name, text := range all {
		if strings.HasPrefix(name, "deploy/lab/") {
			continue // figures, of functions that a measurement makes
		}
		for _, call := range slices.Concat(called.FindAllStringSubmatch(text, -1), invoked.FindAllStringSubmatch(text, -1)) {
			if !slices.Contains(exist, call[1]) {
				t.Errorf("%s calls %q: there are %v", name, call[0], exist)
			}
		}
	}
}
