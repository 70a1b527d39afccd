package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openfaas/go-sdk/builder"
	"github.com/openfaas/go-sdk/stack"
)

// layOut makes a build context as faas-cli does. Its paths are relative to the working directory, which is changed.
func layOut(t *testing.T, name, handler string, extra []string) (context string) {
	t.Helper()
	context, err := builder.CreateBuildContext(name, handler, "go-http", extra, builder.WithBuildDir(t.TempDir()))
	if err != nil {
		t.Fatalf("%s: laying out the build context: %v", name, err)
	}
	return context
}

// compile takes the step of the Dockerfile that compiles, and returns what it says.
func compile(t *testing.T, context string, env ...string) (out, says string, err error) {
	t.Helper()
	out = t.TempDir()
	command := exec.Command("sh", filepath.Join(context, "build.sh"), context, out)
	command.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local")
	command.Env = append(command.Env, env...)
	text, err := command.CombinedOutput()
	return out, string(text), err
}

// A handler that imported a package of ours would compile in the repository and not here.
func TestEveryFunctionCompilesFromItsBuildContext(t *testing.T) {
	t.Chdir("../..") // what the stack file copies must lie inside the working directory
	services, err := stack.ParseYAMLFile("stack.yml", "", "", true)
	if err != nil {
		t.Fatal(err)
	}
	if len(services.Functions) == 0 {
		t.Fatal("stack.yml has no function")
	}
	for name, f := range services.Functions {
		context := layOut(t, name, f.Handler, services.StackConfiguration.CopyExtraPaths)
		if _, says, err := compile(t, context, "TEST_ENABLED="+f.BuildArgs["TEST_ENABLED"]); err != nil {
			t.Errorf("%s: %v\n%s", name, err, says)
		}
	}
	// What faas-cli new makes: the sample with its test, and no module file.
	if _, says, err := compile(t, layOut(t, "sample", "template/go-http/function", nil)); err != nil || !strings.Contains(says, "ok  ") {
		t.Errorf("sample: %v\n%s", err, says)
	}
}

const (
	handle = "import \"net/http\"\n\nfunc Handle(w http.ResponseWriter, r *http.Request) {}\n"
	module = "module example.com/mine\n\n"
	needs  = "require example.com/private v1.2.3\n"
	greets = "package private\n\nfunc Greeting() string { return \"hello\" }\n"
	uses   = "package mine\n\nimport (\n\t\"net/http\"\n\n\t\"example.com/private\"\n)\n\n" +
		"func Handle(w http.ResponseWriter, r *http.Request) { w.Write([]byte(private.Greeting())) }\n"
)

// TestHandlersOfAllKinds: a handler's module files mean what they mean to its author. Otherwise the build says in one
// line what is not possible and what to do.
func TestHandlersOfAllKinds(t *testing.T) {
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		files map[string]string
		says  string // in the error; empty: it compiles
	}{
		"no go.mod":       {files: map[string]string{"handler.go": "package function\n\n" + handle}},
		"Go 1.13":         {files: map[string]string{"go.mod": module + "go 1.13\n", "handler.go": "package mine\n\n" + handle}},
		"Go 1.20":         {files: map[string]string{"go.mod": module + "go 1.20\n", "handler.go": "package mine\n\n" + handle}},
		"Go 1.21":         {files: map[string]string{"go.mod": module + "go 1.21\n", "handler.go": "package mine\n\n" + handle}},
		"Go 1.26":         {files: map[string]string{"go.mod": module + "go 1.26.0\n", "handler.go": "package mine\n\n" + handle}},
		"no go directive": {files: map[string]string{"go.mod": module, "handler.go": "package mine\n\n" + handle}},
		"New":             {files: map[string]string{"handler.go": "package function\n\nimport (\n\t\"context\"\n\t\"net/http\"\n)\n\nfunc New(ctx context.Context) (http.Handler, error) { return http.NotFoundHandler(), nil }\n"}},
		"loops as they were": {files: map[string]string{"go.mod": module + "go 1.13\n", "handler.go": "package mine\n\n" + handle, "loop_test.go": "package mine\n\nimport \"testing\"\n\n" +
			"func TestLoop(t *testing.T) {\n\tvar f []func() int\n\tfor i := 0; i < 3; i++ {\n\t\tf = append(f, func() int { return i })\n\t}\n\tif f[0]() != 3 {\n\t\tt.Error(\"another language than go.mod says\")\n\t}\n}\n"}},
		"sub-packages": {files: map[string]string{"go.mod": module + "go 1.21\n", "greet/greet.go": strings.Replace(greets, "private", "greet", 1),
			"handler.go": strings.NewReplacer("example.com/private", "example.com/mine/greet", "private.", "greet.").Replace(uses)}},
		"replace by a folder": {files: map[string]string{"go.mod": module + "go 1.21\n\n" + needs + "replace example.com/private => ./private\n", "private/go.mod": "module example.com/private\n",
			"private/private.go": greets, "handler.go": uses}},
		"vendor": {files: map[string]string{"go.mod": module + "go 1.21\n\n" + needs, "handler.go": uses, "vendor/example.com/private/private.go": greets,
			"vendor/modules.txt": "# example.com/private v1.2.3\n## explicit\nexample.com/private\n"}},
		"vendor, Go 1.13": {files: map[string]string{"go.mod": module + "go 1.13\n\n" + needs, "handler.go": uses, "vendor/example.com/private/private.go": greets,
			"vendor/modules.txt": "# example.com/private v1.2.3\nexample.com/private\n"}},
		"a go.work of the author's":           {files: map[string]string{"go.mod": module + "go 1.21\n", "go.work": "go 1.21\n\nuse ../elsewhere\n", "handler.go": "package mine\n\n" + handle}},
		"another file name than the sample's": {files: map[string]string{"mine.go": "package mine\n\n" + handle}},
		"a test that passes":                  {files: map[string]string{"handler.go": "package function\n\n" + handle, "a_test.go": "package function\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {}\n"}},

		"a test that fails": {files: map[string]string{"handler.go": "package function\n\n" + handle, "a_test.go": "package function\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { t.Error(\"wrong\") }\n"},
			says: "go-http: the handler's tests fail; --build-arg TEST_ENABLED=false builds without them"},
		"neither form": {files: map[string]string{"handler.go": "package function\n\nfunc Run() {}\n"}, says: "go-http: the handler's folder needs func Handle("},
		"a program":    {files: map[string]string{"handler.go": "package main\n\n" + handle}, says: "handler.go: package main cannot be imported: name it package function"},
		"a replace that is not there": {files: map[string]string{"go.mod": module + "go 1.21\n\n" + needs + "replace example.com/private => ../private\n", "handler.go": uses},
			says: "go.mod replaces a module by ../private, and only the handler's folder is built: move it inside, or run go mod vendor"},
		"vendor without a list":          {files: map[string]string{"handler.go": uses, "vendor/example.com/private/private.go": greets}, says: "vendor/ has no modules.txt: run go mod vendor"},
		"a module that nothing provides": {files: map[string]string{"handler.go": uses}, says: "example.com/private"},
		"a folder of our name":           {files: map[string]string{"handler.go": "package function\n\n" + handle, "go_http_template/x.go": "package x\n"}, says: "rename it"},
		"Go of the future":               {files: map[string]string{"go.mod": module + "go 1.99\n", "handler.go": "package mine\n\n" + handle}, says: "requires go >= 1.99"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files := maps.Clone(tc.files)
			if err := os.CopyFS(filepath.Join(dir, "template"), os.DirFS(source)); err != nil {
				t.Fatal(err)
			}
			for file, text := range files {
				path := filepath.Join(dir, "mine", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(dir)
			_, says, err := compile(t, layOut(t, "mine", "mine", nil), "GOPROXY=off")
			if (err != nil) != (tc.says != "") || !strings.Contains(says, tc.says) {
				t.Errorf("%v, it says:\n%s\nwant %q", err, says, tc.says)
			}
		})
	}
}

func TestTheSumsAreTheSamples(t *testing.T) {
	check := exec.Command("sha256sum", "--check", "--strict", "../sample.sum")
	check.Dir = "function"
	if says, err := check.CombinedOutput(); err != nil {
		t.Errorf("run sha256sum handler.go handler_test.go >../sample.sum in function/: %v\n%s", err, says)
	}
}
