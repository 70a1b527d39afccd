// Package waggle holds no code of the product. Its tests check the repository's own rules: which package may import
// which, whether a package says what it is for, and the size of files.
package waggle

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/openfaas/go-sdk/builder"
)

// maxLines is the most lines a Go file may have; longer ones hide a package that wants to be two.
const maxLines = 600

// ownedImports says who alone may import an outside system's client, so that its traps are known in one place.
var ownedImports = map[string][]string{
	"github.com/moby/moby/client":         {"provider/swarm"},
	"github.com/moby/moby/api":            {"provider/swarm"},
	"google.golang.org/protobuf":          {"provider/swarm"},
	"github.com/jackc/pgx/v5":             {"worker/store", "functions/results"},
	"github.com/redis/go-redis/v9":        {"worker/drain", "functions/vote", "provider/async"},
	"github.com/openfaas/go-sdk":          {"deploy/up", "deploy/lab/e2e"},
	"github.com/prometheus/client_golang": {"provider", "worker"},
}

// arrows says what of ours a folder may import; a folder that is not named may import what its nearest named parent may.
// The empty list means nothing of ours: a function has to build without this repository.
var arrows = map[string][]string{
	"functions/vote":     {},
	"functions/results":  {},
	"functions/pollfile": {},
	"template/go-http":   {"template/go-http"}, // its package liveness checks the other parts as well
	"provider/feed":      {},
	"provider/settings":  {},
	"provider/swarm":     {"provider/feed", "provider/settings", "provider/swarm"},
	"provider/autoscale": {"provider/feed"},
	"provider/api":       {"provider/autoscale", "provider/feed", "provider/settings", "provider/swarm", "provider/api"},
	"provider/queued":    {},
	"provider/gateway":   {"provider/feed", "provider/settings", "provider/queued", "provider/gateway"},
	"provider/async":     {"provider/feed", "provider/settings", "provider/queued"},
	"provider":           {"provider", "template/go-http/liveness"},
	"worker/scram":       {},
	"worker/store":       {"worker/store", "worker/scram"},
	"worker/drain":       {"worker/drain", "worker/store", "functions/pollfile"},
	"worker":             {"worker", "provider/settings", "template/go-http/liveness"},
	"deploy/lab/bench":   {"deploy", "provider/feed", "provider/gateway", "functions/vote", "template/go-http"},
	"deploy/lab/loadsim": {"provider/autoscale", "provider/feed"},
	"deploy/lab/chain":   {"deploy", "functions/vote", "functions/results", "worker"},
	"deploy/lab/e2e":     {"deploy", "provider/autoscale"},
	"deploy/up":          {"deploy", "functions/pollfile", "worker/scram"},
	"deploy/preview":     {"functions/vote", "functions/results"},
	"deploy":             {"deploy", "template/go-http/liveness"},
}

// testArrows says what of ours any test may import besides: real servers, and the schema that belongs in one of them.
var testArrows = []string{"deploy/lab/harness", "worker/store"}

type source struct {
	file   string // path from the root, with slashes
	folder string
	isTest bool
	syntax *ast.File
	places *token.FileSet
	lines  int
}

func (s source) imports(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, spec := range s.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatalf("%s: import %s: %v", s.file, spec.Path.Value, err)
		}
		paths = append(paths, p)
	}
	return paths
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name := entry.Name(); file != "." && (strings.HasPrefix(name, ".") || file == "build" || name == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(file) != ".go" {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		places := token.NewFileSet()
		syntax, err := parser.ParseFile(places, file, text, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{
			file:   filepath.ToSlash(file),
			folder: path.Dir(filepath.ToSlash(file)),
			isTest: strings.HasSuffix(file, "_test.go"),
			syntax: syntax,
			places: places,
			lines:  strings.Count(string(text), "\n"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("found only %d Go files: the walk is broken", len(all))
	}
	return all
}

// within reports whether folder is root or lies below it.
func within(folder, root string) bool {
	return folder == root || strings.HasPrefix(folder, root+"/")
}

// allowedBy returns the nearest named parent of folder in arrows.
func allowedBy(folder string) ([]string, bool) {
	for f := folder; f != "."; f = path.Dir(f) {
		if allowed, ok := arrows[f]; ok {
			return allowed, true
		}
	}
	return nil, false
}

func TestOutsideSystemsHaveOneImporter(t *testing.T) {
	t.Parallel()
	for _, src := range sources(t) {
		// The harness and the tests around it have to look into the real thing from outside.
		if src.isTest || within(src.folder, "deploy/lab/harness") {
			continue
		}
		for _, imported := range src.imports(t) {
			for system, owners := range ownedImports {
				if within(imported, system) && !slices.ContainsFunc(owners, func(o string) bool { return within(src.folder, o) }) {
					t.Errorf("%s imports %s; only %s may", src.file, imported, strings.Join(owners, ", "))
				}
			}
		}
	}
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	for _, src := range sources(t) {
		for _, imported := range src.imports(t) {
			ours, ok := strings.CutPrefix(imported, "waggle/")
			if !ok || ours == src.folder {
				continue
			}
			allowed, named := allowedBy(src.folder)
			if src.isTest {
				allowed = append(slices.Clone(allowed), testArrows...)
			}
			if !named {
				t.Errorf("%s: folder %s has no rule in arrows", src.file, src.folder)
			} else if !slices.ContainsFunc(allowed, func(a string) bool { return within(ours, a) }) {
				t.Errorf("%s imports %s; %s may import of ours: %q", src.file, imported, src.folder, allowed)
			}
		}
	}
}

func TestFilesAreSmall(t *testing.T) {
	t.Parallel()
	for _, src := range sources(t) {
		if !src.isTest && src.lines > maxLines {
			t.Errorf("%s has %d lines; at most %d", src.file, src.lines, maxLines)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, src := range sources(t) {
		if !src.isTest {
			documented[src.folder] = documented[src.folder] || src.syntax.Doc != nil && len(src.syntax.Doc.Text()) >= 80
		}
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment of at least a sentence (80 characters)", folder)
		}
	}
}

// Settings are read in one place per binary, so that a reader finds them all there and a malformed one stops the start.
func TestEnvironmentIsReadInConfigOnly(t *testing.T) {
	t.Parallel()
	eachCall(t, func(src source, call string) {
		if within(src.folder, "deploy") || src.folder == "provider/settings" || path.Base(src.file) == "config.go" {
			return
		}
		if slices.Contains([]string{"os.Getenv", "os.LookupEnv", "envconfig.Process", "settings.Load"}, call) {
			t.Errorf("%s calls %s; the environment is read in config.go", src.file, call)
		}
	})
}

func TestOnlyMainExits(t *testing.T) {
	t.Parallel()
	eachCall(t, func(src source, call string) {
		if src.syntax.Name.Name != "main" && (call == "os.Exit" || strings.HasPrefix(call, "log.Fatal")) {
			t.Errorf("%s calls %s; only main ends the process", src.file, call)
		}
	})
}

// eachCall visits every call of a package's function, named as package.Function, outside tests.
func eachCall(t *testing.T, visit func(source, string)) {
	t.Helper()
	for _, src := range sources(t) {
		if src.isTest {
			continue
		}
		ast.Inspect(src.syntax, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
					if pkg, ok := sel.X.(*ast.Ident); ok {
						visit(src, fmt.Sprintf("%s.%s", pkg.Name, sel.Sel.Name))
					}
				}
			}
			return true
		})
	}
}

// The templates python3-http and shell are each copied alone by their users, so what they share is in both.
func TestCopiesInTheTemplatesAreEqual(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"watchdog.py", "healthcheck.py", "sample.sh"} {
		one, err := os.ReadFile("template/python3-http/" + file)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile("template/shell/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if string(one) != string(other) {
			t.Errorf("%s differs between template/python3-http and template/shell: copy the one you changed", file)
		}
	}
}

// The build must not fail by a test that the author of a handler has deleted.
func TestTheSamplesTestGoesWithTheSample(t *testing.T) {
	t.Parallel()
	for language, ending := range map[string]string{"python3-http": ".py", "shell": ".sh"} {
		for name, tc := range map[string]struct {
			files []string
			kept  bool
		}{
			"the sample":          {nil, true},
			"a handler":           {[]string{"handler"}, false},
			"a handler's own one": {[]string{"handler", "handler_test"}, true},
		} {
			t.Run(language+"/"+name, func(t *testing.T) {
				t.Parallel()
				handler := t.TempDir()
				for _, file := range tc.files {
					if err := os.WriteFile(filepath.Join(handler, file+ending), []byte("mine\n"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				layout, err := builder.CreateBuildContext("mine", handler, language, nil, builder.WithBuildDir(t.TempDir()))
				if err != nil {
					t.Fatal(err)
				}
				step := exec.Command("sh", filepath.Join(layout, "sample.sh"), "handler_test"+ending)
				step.Dir = filepath.Join(layout, "function")
				if says, err := step.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, says)
				}
				if _, err := os.Stat(filepath.Join(step.Dir, "handler_test"+ending)); (err == nil) != tc.kept {
					t.Errorf("handler_test%s: %v, to be kept: %v", ending, err, tc.kept)
				}
			})
		}
	}
}
