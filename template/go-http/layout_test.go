package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/openfaas/go-sdk/builder"
	"github.com/openfaas/go-sdk/stack"
)

// TestEveryFunctionCompilesFromItsBuildContext lays a context out as faas-cli does and takes the Dockerfile's steps on
// it: a handler that imported a package of ours would compile in the repository and not here.
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
		compile(t, name, f.Handler, f.Language, services.StackConfiguration.CopyExtraPaths)
	}
	// What faas-cli new makes: the sample, and no module file.
	compile(t, "sample", "template/go-http/function", "go-http", nil)
}

func compile(t *testing.T, name, handler, language string, extra []string) {
	t.Helper()
	context, err := builder.CreateBuildContext(name, handler, language, extra, builder.WithBuildDir(t.TempDir()))
	if err != nil {
		t.Fatalf("%s: laying out the build context: %v", name, err)
	}
	source := t.TempDir()
	function := filepath.Join(source, "template", "go-http", "function")
	if err := os.CopyFS(filepath.Join(source, "template", "go-http"), os.DirFS(context)); err != nil {
		t.Fatal(err)
	}
	modules := false
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := os.Rename(filepath.Join(function, file), filepath.Join(source, file)); err == nil {
			modules = true
		}
	}
	commands := [][]string{{"mod", "init", "waggle"}}
	if modules {
		commands = [][]string{{"mod", "edit", "-module", "waggle"}}
	}
	commands = append(commands, []string{"build", "-trimpath", "-o", os.DevNull, "./template/go-http"})
	for _, arguments := range commands {
		command := exec.Command("go", arguments...)
		command.Dir = source
		command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%s: go %v: %v\n%s", name, arguments, err, output)
		}
	}
}
